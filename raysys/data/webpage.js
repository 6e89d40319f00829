"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(title, more) {
  const line = colour("--line"), text = { color: colour("--soft"), size: 12 };
  return {
    title: { text: title, font: text, standoff: 8 }, tickfont: text, gridcolor: line, linecolor: line, zeroline: false,
    automargin: true, fixedrange: true, ...more,
  };
}

function layout(x, y, more) {
  return {
    xaxis: x, yaxis: y, margin: { l: 48, r: 12, t: 12, b: 40 }, dragmode: false, showlegend: false,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: getComputedStyle(document.body).fontFamily },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--text"), size: 13 } }, ...more,
  };
}

function legend() {
  return { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { color: colour("--text"), size: 13 } };
}

function drawAll() {
  for (const [name, data] of Object.entries(facts)) {
    const [traces, shape] = draw[name.split("-")[0]](data);
    Plotly.react(`plot-${name}`, traces, shape, { displayModeBar: false, responsive: true });
  }
}

dark.addEventListener("change", drawAll);
