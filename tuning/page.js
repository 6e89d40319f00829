function blend(share) {
  const [low, high] = ["--low", "--high"].map((name) => colour(name).match(/\w\w/g).map((part) => parseInt(part, 16)));
  return `rgb(${low.map((from, at) => Math.round(from + share * (high[at] - from))).join(",")})`;
}

// A colour of a figure is named as the page names it: "--s1"; "--scale" is the whole scale, "--scale 0.3" a place on it.
function themed(value, key) {
  if (Array.isArray(value)) return value.map((one) => themed(one, key));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, themed(one, name)]));
  }
  if (!/color/.test(key) || typeof value !== "string" || !value.startsWith("--")) return value;
  if (value === "--scale") return [[0, blend(0)], [1, blend(1)]];
  return value.startsWith("--scale ") ? blend(Number(value.slice(8))) : colour(value);
}

const draw = {
  figure(data) {
    const traces = themed(data.data, ""), { margin, ...given } = themed(data.layout, "");
    const axes = {};
    for (const [name, { title, ...more }] of Object.entries(given)) {
      if (/^[xy]axis\d*$/.test(name)) axes[name] = axis(title?.text ?? "", more);
    }
    const top = given.showlegend ? 30 : 12;
    return [traces, layout(axes.xaxis, axes.yaxis, {
      ...given, ...axes, legend: legend(), margin: { l: 48, r: 12, t: top, b: 40, ...margin },
    })];
  },
};

// Numbers by size, texts by letters; what has no value stays below.
function sortBy(table, at, descending) {
  const value = (row) => {
    const cell = row.cells[at], data = cell.querySelector("data");
    return data ? Number(data.value) : cell.textContent;
  };
  const missing = (found) => found === "" || found === "–";
  const compare = (one, other) => {
    if (missing(one) || missing(other)) return missing(one) - missing(other);
    const order = typeof one === "number" && typeof other === "number" ? one - other
      : String(one).localeCompare(String(other), "en", { numeric: true });
    return descending ? -order : order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort((one, other) => compare(value(one), value(other))));
  for (const head of table.tHead.rows[0].cells) head.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[at].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("table.trials th button")) {
  const head = button.parentElement;
  button.addEventListener("click", () => {
    sortBy(head.closest("table"), head.cellIndex, head.getAttribute("aria-sort") === "ascending");
  });
}
