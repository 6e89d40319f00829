"""The plots of a search: Optuna draws them, here they get the look of the pages. Where one cannot be drawn, why not.

A figure is {data, layout} as plotly reads it; colours are names of the page's (`--s1`), so that it follows light and
dark. All texts come from a `PlainStudy`, escaped.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuning.page_study import PlainStudy

if TYPE_CHECKING:
    import plotly.graph_objects as go

Figure = dict[str, Any]
Drawn = Figure | str
"""A figure, or one sentence that says why there is none."""

MOST_PARAMETERS, MOST_AXES = 12, 10
"""More cannot be read in one plot, or as parallel axes; the most important ones are shown."""
_IN_A_ROW = 4
_BAR = {"thickness": 10, "outlinewidth": 0, "tickfont": {"color": "--soft", "size": 12}, "ypad": 0}
FINISHED, STOPPED, DEFAULT, WINNER = "--s1", "--s8", "--s2", "--s3"
"""Colours of trials in all plots."""
_WEIGHT = re.compile(r"weighting(\[fixed\])?\.weights\.")
_NONE = "No trial is complete, so there is nothing to draw."


def history(plain: PlainStudy, stopped: Mapping[int, float], best: int | None) -> Drawn:
    """Return the first objective trial by trial; `stopped` are values of trials that have been stopped."""
    from optuna.visualization import plot_optimization_history

    if not plain.complete():
        return _NONE
    name = plain.objectives[0]
    figure = _plain(plot_optimization_history(plain.about(0), target_name=name))
    points, line = figure["data"][:2]
    points |= {"name": "complete", "marker": {"color": FINISHED, "size": 7, "opacity": 0.7}}
    line |= {"name": "best so far", "line": {"color": FINISHED, "width": 1.5, "shape": "hv"}, "hoverinfo": "skip"}
    known = {trial.number: trial.values[0] for trial in plain.complete()}
    hollow = {"color": STOPPED, "size": 7, "symbol": "x-thin", "line": {"color": STOPPED, "width": 1.5}}
    marked = [("stopped", stopped, hollow)]
    marked.append(("default config", {0: known[0]} if 0 in known else {}, _mark(DEFAULT, "diamond")))
    marked.append(("winner", {best: known[best]} if best in known else {}, _mark(WINNER, "star")))
    figure["data"] = [line, points, *(_points(*one) for one in marked if one[1])]
    for trace in figure["data"]:
        trace["hovertemplate"] = f"trial %{{x}}: %{{y:.5g}}<extra>{trace['name']}</extra>"
    few = {"dtick": 1} if max([*known, *stopped]) <= 10 else {}
    figure["layout"] = {"xaxis": _titled("trial", tickformat="d", **few), "yaxis": _titled(name), "showlegend": True}
    return figure


def importances(plain: PlainStudy) -> Drawn:
    """Return how much each parameter decides of every objective."""
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import plot_param_importances

    traces: list[Figure] = []
    for at, objective in enumerate(plain.objectives):
        found = plain.importances(at)
        if isinstance(found, str):
            if len(plain.objectives) == 1:
                return found
            continue
        names = [plain.names[path] for path in found]
        drawn = plot_param_importances(
            plain.about(at), evaluator=PedAnovaImportanceEvaluator(), params=names, target_name=objective
        )
        (bars,) = _plain(drawn)["data"]
        bars |= {key: bars[key][-MOST_PARAMETERS:] for key in ("x", "y", "text")}  # the most important one comes last
        traces.append(
            bars | {"name": objective, "marker": {"color": f"--s{at % 8 + 1}"}, "textfont": {"color": "--soft"}}
        )
        traces[-1]["hovertemplate"] = (
            f"%{{y}}: %{{x:.3f}}<extra>{objective if len(plain.objectives) > 1 else ''}</extra>"
        )
    if not traces:
        return "No objective tells the complete trials apart, or there are too few of them."
    layout = {
        "xaxis": _titled("share of what the parameters decide", rangemode="tozero"),
        "yaxis": _titled("", showgrid=False, type="category", ticksuffix=" "),
        "showlegend": len(traces) > 1,
        "margin": {"r": 44},
    }
    return {"data": traces, "layout": layout}


def parallel(plain: PlainStudy, ranked: Sequence[str]) -> Drawn:
    """Return every complete trial as a line through its parameters, the best in the strongest colour."""
    from optuna.visualization import plot_parallel_coordinate

    if not plain.complete():
        return _NONE
    names = sorted(plain.names[path] for path in ranked[:MOST_AXES])
    if not names:
        return _same(plain)
    objective = plain.objectives[0]
    figure = _plain(plot_parallel_coordinate(plain.about(0), params=names, target_name=objective))
    *lines, bar = figure["data"]
    marker = bar["marker"]
    marker |= {"colorscale": "--scale", "colorbar": {**_BAR, "title": {"text": ""}}}
    is_reversed = plain.minimised[0]
    marker["reversescale"] = is_reversed
    for line in lines:
        share = line["y"][0]
        line |= {"line": {"color": f"--scale {1 - share if is_reversed else share:.3f}", "width": 1.5}, "opacity": 0.75}
    lines.sort(key=lambda line: line["line"]["color"])  # the best on top
    given = figure["layout"]
    shapes = [shape | {"line": {"color": "--soft", "width": 1}} for shape in given["shapes"]]
    notes = [
        note | {"font": {"color": "--soft", "size": 11}, "bgcolor": "--card", "borderpad": 1}
        for note in given["annotations"]
    ]
    xaxis = given["xaxis"] | {"ticktext": [objective, *names], "tickfont": {"color": "--text", "size": 12}}
    layout = {"xaxis": xaxis, "yaxis": given["yaxis"], "shapes": shapes, "annotations": notes, "hovermode": "closest"}
    return {"data": [*lines, bar], "layout": layout}


def slices(plain: PlainStudy, ranked: Sequence[str]) -> list[Figure] | str:
    """Return the first objective over each parameter, a few in a row."""
    from optuna.visualization import plot_slice

    if not plain.complete():
        return _NONE
    names = [plain.names[path] for path in ranked[:MOST_PARAMETERS]]
    study, found = plain.about(0), []
    for start in range(0, len(names), _IN_A_ROW):
        part = names[start : start + _IN_A_ROW]
        figure = _plain(plot_slice(study, params=part, target_name=plain.objectives[0]))
        for trace in figure["data"]:
            ring = {"color": "--card", "width": 0.5}
            marker = {"color": trace["marker"]["color"], "colorscale": "--scale", "showscale": False, "line": ring}
            trace |= {"marker": {**marker, "size": 8}, "customdata": trace["marker"]["color"], "cliponaxis": False}
            trace["hovertemplate"] = "trial %{customdata}: %{y:.5g} at %{x}<extra></extra>"
        figure["layout"] = _axes(figure["layout"], min(len(names), _IN_A_ROW))
        for trace in figure["data"]:
            axis = figure["layout"][f"xaxis{trace.get('xaxis', 'x')[1:]}"]
            if axis.get("type") == "log":
                axis |= _decades(math.log10(max(trace["x"]) / min(trace["x"])))
        found.append(figure)
    return found or _same(plain)


def contour(plain: PlainStudy, ranked: Sequence[str]) -> tuple[Drawn, Sequence[str]]:
    """Return the first objective over two parameters, and their paths: task weights where there are two."""
    from optuna.visualization import plot_contour

    pair = _pair(plain, ranked)
    if len(pair) < 2:
        return (
            "A contour takes two numbers that differ between complete trials, and at least 3 trials that have both.",
            (),
        )
    names = [plain.names[path] for path in pair]
    figure = _plain(plot_contour(plain.about(0), params=names, target_name=plain.objectives[0]))
    surface, points = figure["data"][:2]
    surface |= {
        "colorscale": "--scale",
        "reversescale": plain.minimised[0],
        "line": {"width": 0},
        "colorbar": {**_BAR, "title": {"text": plain.objectives[0], "side": "right", "font": {"color": "--soft"}}},
    }
    points |= {"marker": {"color": "--text", "size": 5, "line": {"color": "--card", "width": 1}}, "showlegend": False}
    points["hovertemplate"] = "%{x:.4g}, %{y:.4g}<extra></extra>"
    kept = figure["layout"]
    layout = {name: _kept_axis(kept[name]) for name in ("xaxis", "yaxis")}
    for axis in layout.values():
        if axis.get("type") == "log":
            axis |= _decades(axis["range"][1] - axis["range"][0])
    return {"data": [surface, points], "layout": layout}, pair


def pareto(plain: PlainStudy, other: int, best: int | None) -> Drawn:
    """Return the first objective beside another one, and the trials that no other beats in both."""
    from optuna.visualization import plot_pareto_front

    if not plain.complete():
        return _NONE
    names = [plain.objectives[0], plain.objectives[other]]
    traces = _plain(plot_pareto_front(plain.about(0, other), target_names=names))["data"]
    beaten, front = traces[0], traces[-1]
    beaten |= {"name": "beaten by another", "marker": {"color": STOPPED, "size": 7, "opacity": 0.7}, "showlegend": True}
    order = sorted(range(len(front["x"])), key=lambda at: front["x"][at])
    front |= {key: [front[key][at] for at in order] for key in ("x", "y", "text")}
    front |= {"name": "Pareto front", "mode": "lines+markers", "showlegend": True}
    front |= {"marker": {"color": FINISHED, "size": 9}, "line": {"color": FINISHED, "width": 1.5, "dash": "dot"}}
    shown = [beaten, front]
    for number, name, mark in (
        (0, "default config", _mark(DEFAULT, "diamond")),
        (best, "winner", _mark(WINNER, "star")),
    ):
        values = None if number is None else plain.values(number)
        if values is not None:
            shown.append(_points(name, {values[0]: values[other]}, mark) | {"hoverinfo": "skip"})
    for trace in (beaten, front):
        trace["hovertemplate"] = "%{text}<extra></extra>"
    layout = {"xaxis": _titled(names[0]), "yaxis": _titled(names[1]), "showlegend": True, "hovermode": "closest"}
    return {"data": [trace for trace in shown if trace["x"]], "layout": layout}


def _pair(plain: PlainStudy, ranked: Sequence[str]) -> Sequence[str]:
    numbers = set(plain.varied(numeric=True))
    numeric = [path for path in ranked if path in numbers]
    weights = [path for path in numeric if _WEIGHT.match(path)]
    chosen = weights[:2] if len(weights) > 1 else numeric[:2]
    both = [trial for trial in plain.complete() if all(path in trial.params for path in chosen)]
    apart = all(len({trial.params[path] for trial in both}) > 1 for path in chosen)
    return chosen if len(both) > 2 and apart else ()


def _plain(figure: "go.Figure") -> Figure:
    found: Figure = json.loads(figure.to_json())
    return found


def _same(plain: PlainStudy) -> str:
    if len(plain.complete()) == 1:
        return "Only one trial is complete, so no parameter differs."
    return "All complete trials have the same parameters."


def _titled(title: str, **more: Any) -> Figure:
    return {"title": {"text": title}, **more}


def _kept_axis(given: Figure) -> Figure:
    """Return of an axis what says where and what it measures, not its look."""
    kept = ("title", "type", "range", "domain", "anchor", "matches", "categoryorder", "categoryarray", "showticklabels")
    return {key: given[key] for key in kept if key in given}


def _axes(given: Figure, in_row: int) -> Figure:
    """Return the axes of a row of plots, as wide as those of a row of so many."""
    found = {name: _kept_axis(axis) for name, axis in given.items() if name.startswith(("xaxis", "yaxis"))}
    for at, name in enumerate(sorted(name for name in found if name.startswith("xaxis"))):
        start = at / in_row
        found[name] |= {"domain": [start + 0.012, start + 1 / in_row - 0.012], "nticks": 5}
    return found


def _decades(span: float) -> Figure:
    """Return the ticks of a logarithmic axis: by itself plotly writes every digit of a short one, over each other."""
    return {"dtick": "D2" if span < 2.2 else 1, "tickformat": "~g"}


def _mark(colour: str, symbol: str) -> Figure:
    return {"color": colour, "size": 12, "symbol": symbol, "line": {"color": "--card", "width": 1}}


def _points(name: str, points: Mapping[Any, float], marker: Figure) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(points),
        "y": list(points.values()),
        "marker": marker,
    }
