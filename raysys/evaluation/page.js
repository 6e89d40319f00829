function epochs(last) {
  const step = last <= 12 ? { dtick: 1 } : {};
  return axis("epoch", { showgrid: false, range: [0.7, last + 0.3], tickformat: "d", ...step });
}

function keptAt(epoch) {
  return {
    type: "line", x0: epoch, x1: epoch, y0: 0, y1: 1, yref: "paper",
    line: { color: colour("--soft"), width: 1, dash: "dash" },
  };
}

const draw = {
  curve(data) {
    const trace = {
      type: "scatter", mode: "lines+markers", x: data.epochs, y: data.values, marker: { size: 6 },
      line: { color: colour("--s1"), width: 2 }, hovertemplate: "epoch %{x}: %{y:.4f}<extra></extra>",
    };
    // around a single point plotly would draw an axis from one below to one above it, whatever it measures
    const far = 1.3 * data.values[0];
    const y = axis("", data.values.length > 1 ? {} : { range: [Math.min(far, 0), Math.max(far, 0)] });
    return [[trace], layout(epochs(Math.max(...data.epochs)), y, { shapes: [keptAt(data.kept)] })];
  },
  lines(data) {
    const traces = data.series.map((one) => ({
      name: one.name, type: "scatter", mode: "lines+markers", x: one.epochs, y: one.values, marker: { size: 6 },
      line: { color: colour(one.colour), width: 2, dash: one.dash },
      hovertemplate: "epoch %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
    }));
    const y = axis("", { rangemode: "tozero", zeroline: true, zerolinecolor: colour("--soft"), zerolinewidth: 1 });
    return [traces, layout(epochs(Math.max(...data.series.flatMap((one) => one.epochs))), y, { shapes: [keptAt(data.kept)] })];
  },
  reliability(data) {
    const colours = data.series.length > 1 ? [colour("--s8"), colour("--s1")] : [colour("--s1")];
    const most = Math.max(...data.series.flatMap((one) => one.counts));
    const traces = data.series.map((one, at) => ({
      name: one.name, type: "scatter", mode: "lines+markers", cliponaxis: false, x: one.predicted, y: one.observed,
      line: { color: colours[at], width: 1.5 },
      marker: {
        opacity: 1, color: colours[at], symbol: at ? "circle" : data.series.length > 1 ? "diamond" : "circle",
        size: one.counts.map((count) => 4 + 6 * Math.sqrt(count / most)),
      },
      text: one.counts.map((count) => `${count.toLocaleString("en")} pairs`),
      hovertemplate: "predicted %{x:.4f}, observed %{y:.4f} (%{text})<extra>%{fullData.name}</extra>",
    }));
    const top = 1.04 * Math.max(...data.series.flatMap((one) => [...one.predicted, ...one.observed]));
    const diagonal = { type: "line", x0: 0, y0: 0, x1: top, y1: top, line: { color: colour("--soft"), width: 1, dash: "dash" } };
    const range = { range: [0, top], nticks: 6 };
    return [traces, layout(axis("predicted", range), axis("observed", range), {
      shapes: [diagonal], showlegend: true, legend: legend(), margin: { l: 56, r: 12, t: 28, b: 40 },
    })];
  },
  slices(data) {
    const colours = [colour("--s1"), colour("--s8")], apart = data.series.length > 1 ? 0.14 : 0;
    const traces = data.series.map((one, at) => {
      const shown = one.points.map((point, place) => ({ ...point, place })).filter((point) => (point.mean ?? null) !== null);
      const side = (to) => shown.map((point) => Math.max(to(point), 0) || 0);
      return {
        name: one.name, type: "scatter", mode: "markers", cliponaxis: false, x: shown.map((point) => point.mean),
        y: shown.map((point) => point.place + (at ? apart : -apart)), marker: { color: colours[at], size: 9, symbol: at ? "diamond" : "circle" },
        error_x: {
          type: "data", symmetric: false, array: side((point) => point.high - point.mean),
          arrayminus: side((point) => point.mean - point.low), color: colours[at], thickness: 1.5, width: 0,
        },
        text: shown.map((point) => `${point.low?.toFixed(4) ?? "?"} to ${point.high?.toFixed(4) ?? "?"}, ${point.count.toLocaleString("en")} users`),
        hovertemplate: "%{x:.4f} (%{text})<extra>%{fullData.name}</extra>",
      };
    });
    const y = axis("", {
      tickvals: data.slices.map((_, place) => place), ticktext: data.slices, range: [data.slices.length - 0.5, -0.5], showgrid: false,
    });
    return [traces, layout(axis(data.metric, { rangemode: "tozero" }), y, {
      showlegend: true, legend: legend(), margin: { l: 48, r: 12, t: 28, b: 40 },
    })];
  },
};
