function logarithmic(values) {
  const known = values.filter((value) => value > 0);
  return { type: "log", dtick: Math.max(...known) < 200 * Math.min(...known) ? "D2" : 1, tickformat: "~s" };
}

function boundary(start, at, data) {
  const [first, last] = [Date.parse(data.x[0]), Date.parse(data.x.at(-1))];
  const late = Date.parse(start.x) > (first + last) / 2;
  const line = { color: colour("--soft"), width: 1, dash: "dash" };
  const label = { text: start.name, x: start.x, y: 1.02 + 0.09 * at, xanchor: late ? "right" : "left", yanchor: "bottom" };
  return [
    { type: "line", x0: start.x, x1: start.x, y0: 0, y1: 1.02 + 0.09 * at, yref: "paper", line },
    { ...label, yref: "paper", showarrow: false, font: { color: colour("--soft"), size: 12 } },
  ];
}

const draw = {
  days(data) {
    const traces = data.series.map((one, at) => ({
      name: one.name, x: data.x, y: data.log ? one.y.map((count) => count || null) : one.y, type: "scatter",
      mode: data.x.length > 45 ? "lines" : "lines+markers", marker: { size: 5 },
      line: { color: colour(`--s${at + 1}`), width: 2 }, hovertemplate: "%{y:,}<extra>%{fullData.name}</extra>",
    }));
    const marks = data.boundaries.map((start, at) => boundary(start, at, data));
    const shape = data.log ? logarithmic(data.series.flatMap((one) => one.y)) : { rangemode: "tozero", tickformat: "~s" };
    return [traces, layout(axis("", { type: "date", showgrid: false }), axis("", shape), {
      shapes: marks.map((mark) => mark[0]), annotations: marks.map((mark) => mark[1]), hovermode: "x unified",
      showlegend: traces.length > 1, legend: { orientation: "h", y: -0.16, yanchor: "top", font: { color: colour("--text"), size: 13 } },
      margin: { l: 48, r: 12, t: marks.length ? 56 : 12, b: 30 },
    })];
  },
  lengths(data) {
    const trace = {
      type: "bar", x: data.labels, y: data.users, customdata: data.ranges, marker: { color: colour("--s1") },
      hovertemplate: "%{customdata} events: %{y:,} users<extra></extra>",
    };
    return [[trace], layout(axis("history events", { type: "category", showgrid: false, autotickangles: [0, 60, 90] }), axis("users", { tickformat: "~s" }), { bargap: 0.12 })];
  },
  popularity(data) {
    const trace = {
      type: "scatter", mode: "lines", x: data.ranks, y: data.counts, line: { color: colour("--s1"), width: 2.5 },
      hovertemplate: "rank %{x:,}: %{y:,} events<extra></extra>",
    };
    return [[trace], layout(axis("rank of the item", logarithmic(data.ranks)), axis("events", logarithmic(data.counts)))];
  },
  hours(data) {
    const trace = {
      type: "heatmap", x: [...Array(24).keys()], y: data.days, z: data.counts, xgap: 1, ygap: 1,
      colorscale: [[0, colour("--heat0")], [1, colour("--heat1")]],
      colorbar: { thickness: 10, outlinewidth: 0, tickformat: "~s", tickfont: { color: colour("--soft"), size: 12 } },
      hovertemplate: "%{y}, %{x}:00 to %{x}:59<br>%{z:,} events<extra></extra>",
    };
    return [[trace], layout(axis("hour (UTC)", { dtick: 3, showgrid: false }), axis("", { autorange: "reversed", showgrid: false }))];
  },
};
