"""The plots of a run's page that show how its tasks share: what weighs, who pulls against whom, who listens to what."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raysys.data.webpage import Html, plot, section, text
from raysys.evaluation.page_tables import known
from raysys.evaluation.protocol import Gates

History = Sequence[Mapping[str, float]]
_NARROWEST = 0.2  # colours of cosines reach at least so far, so that noise around 0 stays pale


def sharing_figures(history: History, best_epoch: int, gates: Gates) -> dict[str, Any]:
    """Return what the plots draw, by the name of the plot; nothing where fewer than two tasks share.

    `gates` are those of the report that the page shows first.
    """
    tasks, found = _tasks(history), {}
    if len(tasks) > 1:
        found["lines-weights"] = _lines(history, {task: f"weight/{task}" for task in tasks}, best_epoch)
    pairs = _pairs(history)
    if pairs:
        found["heat-cosines"] = _cosines(history, tasks)
    if pairs and _epochs(history) > 1:
        found["lines-cosines"] = _lines(history, {f"{a} and {b}": name for (a, b), name in pairs.items()}, best_epoch)
    if len(gates) > 1:
        found["heat-gates"] = _gates(gates)
    return found


def sharing_sections(figures: Mapping[str, Any], history: History, split: str) -> Iterable[Html]:
    """Yield a card for each thing that `sharing_figures` found something of."""
    if "lines-weights" in figures:
        note = "What the loss of each task was multiplied by: means over the steps of an epoch."
        yield section("Task weights", note, plot("lines-weights"), wide="heat-gates" not in figures)
    if "heat-gates" in figures:
        note = f"How far each task listens to each expert: mean shares over its targets of {split}; a row adds up to 1."
        yield section("Gates", note, plot("heat-gates"), wide="lines-weights" not in figures)
    if "heat-cosines" in figures:
        note = (
            f"Cosines of the tasks' gradients at what they share, in epoch {_epochs(history)} and, where there were "
            "several, over epochs: below 0 what helps one task hurts the other, near 0 they do not meet."
        )
        names = [name for name in ("heat-cosines", "lines-cosines") if name in figures]
        body = "".join(f"<div>{plot(name)}</div>" for name in names)
        yield section("Task conflict", note, f'<div class="beside">{body}</div>', wide=True)


def _tasks(history: History) -> list[str]:
    """Return the tasks that were weighed, in the order of the config."""
    names = dict.fromkeys(name for line in history for name in line)
    return [name.removeprefix("weight/") for name in names if name.startswith("weight/")]


def _pairs(history: History) -> dict[tuple[str, str], str]:
    """Return the pairs of tasks whose gradients were compared, with the name of their cosine."""
    names = {name for line in history for name in line}
    pairs = {(a, b): f"cosine/{a}|{b}" for a, b in itertools.combinations(_tasks(history), 2)}
    return {pair: name for pair, name in pairs.items() if name in names}


def _epochs(history: History) -> int:
    return int(history[-1]["epoch"])


def _lines(history: History, names: Mapping[str, str], kept: int) -> dict[str, Any]:
    """Return a line over epochs for each entry of the history, by what the line is called."""
    series = []
    for shown, name in names.items():
        lines = [line for line in history if name in line]
        values = [known(line[name]) for line in lines]
        series.append({"name": text(shown), "epochs": [line["epoch"] for line in lines], "values": values})
    return {"series": series, "kept": kept}


def _cosines(history: History, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the cosines of the last epoch [T, T]: every pair stands on both sides of the empty diagonal."""
    cells: dict[tuple[str, str], float | None] = {}
    for (first, second), name in _pairs(history).items():
        cells[first, second] = cells[second, first] = known(history[-1].get(name, math.nan))
    values = [[cells.get((first, second)) for second in tasks] for first in tasks]
    most = max((abs(value) for value in cells.values() if value is not None), default=0.0)
    limit, names = max(most, _NARROWEST), [text(task) for task in tasks]
    return {"x": names, "y": names, "values": values, "range": [-limit, limit], "format": ".2f"}


def _gates(gates: Gates) -> dict[str, Any]:
    """Return the shares [T, X]; empty where a task cannot listen to an expert."""
    experts = list(dict.fromkeys(expert for shares in gates.values() for expert in shares))
    values = [[known(shares.get(expert, math.nan)) for expert in experts] for shares in gates.values()]
    most = max((value for row in values for value in row if value is not None), default=1.0)
    columns, rows = [text(expert) for expert in experts], [text(task) for task in gates]
    return {"x": columns, "y": rows, "values": values, "range": [0, most], "format": ".0%"}
