"use strict";
const made = (name, text, parent) => {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};
const field = (label, parent, name = "input") => made(name, undefined, made("label", label, parent));

const resolved = (spec, shape) => (shape.$ref ? spec.components.schemas[shape.$ref.split("/").pop()] : shape);

function fieldsOf(spec, shape, parent) {
  const table = made("table", undefined, parent);
  for (const [name, told] of Object.entries(resolved(spec, shape).properties || {})) {
    const row = made("tr", undefined, table);
    made("code", name, made("td", undefined, row));
    made("td", told.description || "", row);
  }
}

function operationOf(spec, path, method, told, main) {
  const box = made("details", undefined, main);
  const summary = made("summary", undefined, box);
  made("code", `${method.toUpperCase()} ${path}`, summary);
  summary.append(` ${told.summary}${told.security ? "" : " (no key needed)"}`);
  made("p", told.description, box);
  const parameters = (told.parameters || []).map((one) => [one, field(`${one.name} (${one.in})`, box)]);
  const content = told.requestBody && told.requestBody.content["application/json"];
  let body;
  if (content) {
    fieldsOf(spec, content.schema, box);
    body = field("body", box, "textarea");
    body.rows = 6;
    const examples = Object.values(content.examples || {});
    for (const example of examples) {
      made("button", example.summary, box).onclick = () => (body.value = JSON.stringify(example.value, null, 1));
    }
    if (examples.length) body.value = JSON.stringify(examples[0].value, null, 1);
  }
  const send = made("button", "Send", box);
  const shown = made("pre", "", box);
  send.onclick = async () => {
    let url = path;
    const query = new URLSearchParams();
    for (const [one, input] of parameters) {
      if (one.in === "path") url = url.replace(`{${one.name}}`, encodeURIComponent(input.value));
      else if (input.value) query.set(one.name, input.value);
    }
    const headers = body ? { "content-type": "application/json" } : {};
    const key = document.getElementById("key").value;
    if (key) headers.authorization = `Bearer ${key}`;
    const asked = { method: method.toUpperCase(), headers, body: body && body.value };
    const answer = await fetch(query.size ? `${url}?${query}` : url, asked);
    const text = await answer.text();
    let pretty = text;
    try { pretty = JSON.stringify(JSON.parse(text), null, 1); } catch { /* not JSON: as it is */ }
    shown.textContent = `${answer.status} ${answer.statusText}\n${pretty}`;
  };
}

(async () => {
  const spec = await (await fetch("openapi.json")).json();
  const main = document.querySelector("main");
  made("h1", `${spec.info.title} ${spec.info.version}`, main);
  made("p", spec.info.description.replaceAll("`", ""), main);
  const key = field("key", main);
  key.id = "key";
  key.type = "password";
  key.autocomplete = "off";
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, told] of Object.entries(methods)) operationOf(spec, path, method, told, main);
})();
