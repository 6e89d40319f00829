"""A search as one page that needs no network: what it found, how its trials went, and which parameters decided.

What comes from configs is escaped: it may be hostile.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from raysys.data.webpage import Html, empty, folded, header, own_file, plot, section, shell, text, tiles
from tuning.page_curves import Curve, curves
from tuning.page_figures import (
    MOST_AXES,
    MOST_PARAMETERS,
    Drawn,
    Figure,
    contour,
    history,
    importances,
    parallel,
    pareto,
    slices,
)
from tuning.page_study import PlainStudy
from tuning.page_table import trial_table
from tuning.report import TrialRecord, show

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class SearchFacts:
    """What the page of a search tells."""

    project: str
    study_id: str
    created: datetime
    facts: Mapping[str, str]
    """What the search is, by name, in the order of the page: dataset, searcher, scheduler, seed, ..."""
    objectives: tuple[str, ...]
    """What trials are judged by; the first one ranks them."""
    minimised: tuple[bool, ...]
    """Of each objective, whether lower is better."""
    records: Sequence[TrialRecord]
    curves: Mapping[int, Curve]
    """Of each trial by its number: epoch and first objective, wherever it was validated."""
    study: "optuna.Study"
    """The same trials as Optuna knows them, under the same numbers."""
    best: int | None
    """The number of the winner."""
    config: str
    """The search as YAML."""
    place: str
    """Where the search was written and with what, for the foot of the page."""
    most_epochs: int | None = None
    """Epochs of a trial that nothing stops; if not given, those of the longest trial that ran."""


_BROAD = ("parallel", "slice")
"""Plots that nobody could read squeezed onto a small screen: there they scroll."""


@dataclass(frozen=True)
class _Card:
    title: str
    note: str
    drawn: Drawn | list[Figure]
    name: str
    wide: bool = False


def search_page(facts: SearchFacts) -> str:
    """Return the page as HTML: everything in it is inlined, and scripts that are not its own are not run."""
    paths = [path for record in facts.records for path in record.values]
    plain = PlainStudy(facts.study, paths, facts.objectives, facts.minimised)
    with _quiet():
        cards = list(_cards(facts, plain))
    figures = {name: figure for card in cards for name, figure in _figures(card)}
    remark = f"Searched {facts.created:%Y-%m-%d %H:%M} UTC"
    body = f"""{header(facts.project, facts.study_id, remark, facts.facts)}{_headlines(facts, plain)}
<div class="cards">
{"".join(_shown(card) for card in cards)}{_trials(facts, plain)}
{section("Config", "", folded("The search as it was resolved", facts.config), wide=True)}
</div>
<footer>{text(facts.place)}</footer>"""
    style, script = (own_file("tuning", name) for name in ("page.css", "page.js"))
    return shell(f"{facts.project} {facts.study_id}", body, style, script, figures)


def _headlines(facts: SearchFacts, plain: PlainStudy) -> Html:
    records = {record.number: record for record in facts.records}
    name, better = facts.objectives[0], "lower is better" if facts.minimised[0] else "higher is better"
    best, default = (None if number is None else records.get(number) for number in (facts.best, 0))
    told = [("–", "no trial ended well")]
    if best is not None:
        epoch = f", epoch {best.best_epoch}" if best.best_epoch else ""
        told = [(_value(best.value), f"{name} of the best, trial {best.number}{epoch}; {better}")]
    if default is not None:
        same = ", which no other trial beats" if facts.best == 0 else ""
        told.append((_value(default.value), f"{name} of the default config, trial 0{same}"))
    for at, other in enumerate(facts.objectives[1:], start=1):
        values, beside = (None if number is None else plain.values(number) for number in (facts.best, 0))
        if values:
            remark = f"; {show(beside[at])} by default" if beside else ""
            told.append((show(values[at]), f"{other} of the best{remark}"))
    ended = [sum(record.status == status for record in facts.records) for status in ("finished", "stopped", "failed")]
    told.append((" / ".join(map(str, ended)), "trials finished / stopped / failed"))
    return tiles([*told, _epochs(facts)])


def _epochs(facts: SearchFacts) -> tuple[str, str]:
    trained = sum(record.epochs for record in facts.records)
    most = facts.most_epochs or max((record.epochs for record in facts.records), default=0)
    whole = most * len(facts.records)
    if not whole:
        return "0", "epochs trained"
    share = f"{100 * trained / whole:.0f} % of {len(facts.records)} trials of {most} epochs"
    return f"{trained:,} of {whole:,}", f"epochs trained, {share}"


def _value(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else show(value)


def _cards(facts: SearchFacts, plain: PlainStudy) -> Iterator[_Card]:
    name, count = facts.objectives[0], len(plain.complete())
    of = f"Of the {count} complete {'trial' if count == 1 else 'trials'}"
    ranked = _ranked(plain)
    stopped = {
        record.number: record.value
        for record in facts.records
        if record.status == "stopped" and record.value is not None and math.isfinite(record.value)
    }
    yield _Card("History", f"{name} of each trial at its best epoch.", history(plain, stopped, facts.best), "history")
    note = f"{of}, by PED-ANOVA: how far the values of the best tenth differ from those of all."
    if 0 < count < 20:
        note += " So few trials give a rough picture."
    yield _Card("Importance of the parameters", note, importances(plain), "importances")
    note = "At each validation. A cross is where a trial was stopped; a click on the legend hides a kind of trial."
    drawn = curves(facts.records, facts.curves, plain.objectives[0], facts.best)
    yield _Card("Learning curves", note, drawn, "curves", wide=True)
    note = f"{of}: one line each, the stronger the colour the better.{_left_out(ranked, MOST_AXES)}"
    if any(path not in trial.params for trial in plain.complete() for path in ranked[:MOST_AXES]):
        note += " None: the trial has no such parameter."
    yield _Card("Parallel coordinates", note, parallel(plain, ranked), "parallel", wide=True)
    note = (
        f"{of}: {name} over each parameter; trials in stronger colour came later.{_left_out(ranked, MOST_PARAMETERS)}"
    )
    yield _Card("Slices", note, slices(plain, ranked), "slice", wide=True)
    drawn, pair = contour(plain, ranked)
    pairs = range(1, len(facts.objectives))
    both = " and ".join(plain.short[path] for path in pair)
    note = f"{name} over {both}, interpolated between the complete trials that have both."
    yield _Card("Contour", note, drawn, "contour", wide=len(pairs) % 2 == 0)
    for at in pairs:
        note = f"{name} beside {facts.objectives[at]}; {_wanted(facts, 0)}, {_wanted(facts, at)}."
        yield _Card("Pareto front", note, pareto(plain, at, facts.best), f"pareto{at}")


def _wanted(facts: SearchFacts, at: int) -> str:
    return f"{facts.objectives[at]}: {'lower' if facts.minimised[at] else 'higher'} is better"


def _ranked(plain: PlainStudy) -> list[str]:
    """Return the paths that differ, the most important ones first."""
    varied, found = plain.varied(), plain.importances(0)
    known = [] if isinstance(found, str) else list(found)
    return [*known, *(path for path in varied if path not in known)]


def _left_out(ranked: Sequence[str], most: int) -> str:
    return f" The {most} most important parameters of {len(ranked)}." if len(ranked) > most else ""


def _figures(card: _Card) -> Iterator[tuple[str, Figure]]:
    if isinstance(card.drawn, list):
        yield from ((f"figure-{card.name}-{at}", figure) for at, figure in enumerate(card.drawn))
    elif not isinstance(card.drawn, str):
        yield f"figure-{card.name}", card.drawn


def _shown(card: _Card) -> Html:
    if isinstance(card.drawn, str):
        return section(card.title, "", empty(card.drawn), wide=card.wide)
    plots = Html("".join(plot(name) for name, _ in _figures(card)))
    if card.name in _BROAD:
        plots = Html(f'<div class="scroll">{plots}</div>')
    return section(card.title, card.note, plots, wide=card.wide)


def _trials(facts: SearchFacts, plain: PlainStudy) -> Html:
    measured = {}
    for record in facts.records:
        values = plain.values(record.number)
        others: Sequence[float | None] = values[1:] if values else [None] * (len(facts.objectives) - 1)
        measured[record.number] = [record.value, *others]
    shown = trial_table(facts.records, facts.objectives, measured, facts.minimised[0], facts.best)
    return section("Trials", "Best first; a click on the name of a column sorts by it.", shown, wide=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Optuna says of its experiments and of few trials; the page tells what matters."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
