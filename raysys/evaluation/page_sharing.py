"""The parts of a run's page that show how its tasks share: what weighs, who pulls against whom, who listens to what.

Lines have their legend beside the plot, not in it: there may be many, with long names.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raysys.data.webpage import Html, plot, section, table, text
from raysys.evaluation.page_tables import known
from raysys.evaluation.protocol import Gates

History = Sequence[Mapping[str, float]]

_PALEST = 0.2  # colours of cosines reach at least so far, so that noise around 0 stays pale
_DEEPEST = 55  # percent of colour in a cell: text has to stand out from it
_COLOURS, _DASHES = 8, ("solid", "dashed", "dotted")


def sharing_figures(history: History, best_epoch: int) -> dict[str, Any]:
    """Return what the plots draw, by the name of the plot; nothing where fewer than two tasks share."""
    drawn = {name: lines for name, lines in _lines(history).items() if lines}
    return {name: _drawn(history, lines, best_epoch) for name, lines in drawn.items()}


def sharing_sections(history: History, gates: Gates, split: str) -> Iterable[Html]:
    """Yield a card for weights, gates and conflicts, as far as there are some; `gates` are those of the split."""
    lines, has_gates = _lines(history), len(gates) > 1
    if lines["lines-weights"]:
        note = "What the loss of each task was multiplied by, a mean over the steps of an epoch."
        yield section("Task weights", note, _plot("lines-weights", lines["lines-weights"]), wide=not has_gates)
    if has_gates:
        note = f"How far each task listens to each expert: mean shares over its targets of {split}."
        yield section("Gates", note, _gates(gates), wide=not lines["lines-weights"])
    if pairs := _pairs(history):
        course = lines["lines-cosines"]
        note = (
            f"Cosines of the tasks' gradients at what they share, means of epoch {history[-1]['epoch']:.0f}"
            f"{', and over epochs' if course else ''}. Below 0, what helps one task hurts the other; near 0, they do "
            "not meet."
        )
        parts = [_cosines(history, pairs), *([_plot("lines-cosines", course)] if course else [])]
        body = "".join(f"<div>{part}</div>" for part in parts)
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


def _lines(history: History) -> dict[str, dict[str, str]]:
    """Return for each plot its lines: what they are called, and what they are in the history."""
    tasks, pairs = _tasks(history), _pairs(history) if len(history) > 1 else {}
    return {
        "lines-weights": {task: f"weight/{task}" for task in tasks} if len(tasks) > 1 else {},
        "lines-cosines": {f"{first} and {second}": name for (first, second), name in pairs.items()},
    }


def _drawn(history: History, names: Mapping[str, str], kept: int) -> dict[str, Any]:
    series = []
    for at, (shown, name) in enumerate(names.items()):
        there = [line for line in history if name in line]
        colour, dash = _style(at)
        series.append(
            {
                "name": text(shown),
                "epochs": [line["epoch"] for line in there],
                "values": [known(line[name]) for line in there],
                "colour": colour,
                "dash": {"solid": "solid", "dashed": "dash", "dotted": "dot"}[dash],
            }
        )
    return {"series": series, "kept": kept}


def _style(at: int) -> tuple[str, str]:
    """Return the colour and the dash of a line."""
    return f"--s{at % _COLOURS + 1}", _DASHES[at // _COLOURS % len(_DASHES)]


def _plot(name: str, lines: Iterable[str]) -> Html:
    """Return the place of a plot with its legend."""
    styles = [_style(at) for at, _ in enumerate(lines)]
    entries = "".join(
        f'<li><i style="border-top: 2px {dash} var({colour})"></i><span>{text(line)}</span></li>'
        for line, (colour, dash) in zip(lines, styles, strict=True)
    )
    return Html(f'{plot(name)}<ul class="legend">{entries}</ul>')


def _cosines(history: History, pairs: Mapping[tuple[str, str], str]) -> Html:
    """Return the cosines of the last epoch [T, T]: every pair stands on both sides of the empty diagonal."""
    tasks, cells = _tasks(history), {}
    for (first, second), name in pairs.items():
        value = known(history[-1][name]) if name in history[-1] else None
        if value is not None:
            cells[first, second] = cells[second, first] = value
    limit = max((abs(value) for value in cells.values()), default=0.0)
    limit = max(limit, _PALEST)
    return _heat(tasks, {first: [cells.get((first, second)) for second in tasks] for first in tasks}, limit, _figure)


def _gates(gates: Gates) -> Html:
    """Return the shares [T, X]; empty where a task cannot listen to an expert."""
    experts = list(dict.fromkeys(expert for shares in gates.values() for expert in shares))
    limit = max(value for shares in gates.values() for value in shares.values())
    shares_of = {task: [shares.get(expert) for expert in experts] for task, shares in gates.items()}
    return _heat(experts, shares_of, limit, lambda share: f"{100 * share:.1f} %")


def _heat(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[float | None]],
    limit: float,
    show: Callable[[float], str],
) -> Html:
    """Return a table of values on colours: the deeper the nearer they are to the limit, another one below 0."""
    cells = (
        [_breaking(name), *(Html("") if value is None else _cell(value, limit, show(value)) for value in values)]
        for name, values in rows.items()
    )
    header = ["", *(_breaking(name) for name in columns)]
    return table(header, cells, numeric=range(1, len(header)), kind="heat")


def _cell(value: float, limit: float, shown: str) -> Html:
    depth = _DEEPEST * abs(value) / limit
    return Html(f'<b class="{"under" if value < 0 else "over"}" style="--depth: {depth:.0f}%">{text(shown)}</b>')


def _figure(cosine: float) -> str:
    return f"{round(cosine, 2) + 0.0:.2f}".replace("-", "−")  # 0.0 more: no minus before 0.00


def _breaking(name: str) -> Html:
    """Return a name that may go on in another line after an underscore."""
    return Html(text(name).replace("_", "_<wbr>"))
