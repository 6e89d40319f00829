"""The learning curves of all trials of a search in one plot: those of a kind are one trace, which the legend hides."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuning.page_figures import DEFAULT, FINISHED, STOPPED, WINNER, Drawn
from tuning.report import TrialRecord

Curve = Sequence[tuple[int, float]]

_KINDS = {
    "finished": (FINISHED, 1.2, "solid", 0.55),
    "stopped": (STOPPED, 1.2, "solid", 0.8),
    "failed": ("--s4", 1.2, "dot", 0.9),
    "running": ("--s7", 1.2, "solid", 0.8),
    "default config": (DEFAULT, 2.5, "solid", 1),
    "winner": (WINNER, 3, "solid", 1),
}
"""Of each kind of trial in the order they are drawn: colour, width and dashes of the line, opacity."""
_ENDS = {"stopped": "x-thin", "failed": "x"}


def curves(records: Iterable[TrialRecord], measured: Mapping[int, Curve], objective: str, best: int | None) -> Drawn:
    """Return the first objective by epoch; `measured` are the validated epochs by trial, `objective` is escaped."""
    kinds: dict[str, list[tuple[int, Curve]]] = {kind: [] for kind in _KINDS}
    for record in records:
        known = [(epoch, value) for epoch, value in measured.get(record.number, ()) if value == value]
        if known:
            kinds[_kind(record, best)].append((record.number, known))
    traces = [_trace(kind, found) for kind, found in kinds.items() if found]
    if not traces:
        return "No trial has validated an epoch."
    last = max(epoch for found in kinds.values() for _, curve in found for epoch, _ in curve)
    ticks: dict[str, Any] = {"dtick": 1} if last <= 12 else {}
    xaxis = {"title": {"text": "epoch"}, "tickformat": "d", "range": [0.8, last + 0.2], "showgrid": False, **ticks}
    layout = {"xaxis": xaxis, "yaxis": {"title": {"text": objective}}, "showlegend": True, "hovermode": "closest"}
    return {"data": traces, "layout": layout}


def _kind(record: TrialRecord, best: int | None) -> str:
    if record.number == best:
        return "winner"
    return "default config" if record.number == 0 and record.status != "failed" else record.status


def _trace(kind: str, found: Sequence[tuple[int, Curve]]) -> dict[str, Any]:
    colour, width, dash, opacity = _KINDS[kind]
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    sizes: list[int] = []
    for number, curve in found:
        x += [*(epoch for epoch, _ in curve), None]  # a gap parts it from the next trial
        y += [*(value for _, value in curve), None]
        numbers += [number] * len(curve) + [None]
        sizes += [0] * (len(curve) - 1) + [7 if kind in _ENDS or width > 2 else 4, 0]
    end = _ENDS.get(kind, "circle")
    also = ", the default config" if kind == "winner" and found[0][0] == 0 else ""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{kind} ({len(found)})" if width < 2 else f"{kind} (trial {found[0][0]}{also})",
        "x": x,
        "y": y,
        "customdata": numbers,
        "opacity": opacity,
        "line": {"color": colour, "width": width, "dash": dash},
        "marker": {
            "color": colour,
            "opacity": 1,
            "size": sizes,
            "symbol": end,
            "line": {"color": colour, "width": 1.5},
        },
        "hovertemplate": f"trial %{{customdata}}, epoch %{{x}}: %{{y:.5g}}<extra>{kind}</extra>",
    }
