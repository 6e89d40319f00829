"""The table of all trials of a search. Its script sorts it by the column whose header is clicked."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raysys.data.webpage import Html, empty, table, text
from tuning.page_study import written
from tuning.report import TrialRecord, ranked, short_names, show

_LONGEST_REASON = 160


def trial_table(
    records: Sequence[TrialRecord],
    objectives: Sequence[str],
    measured: Mapping[int, Sequence[float | None]],
    minimised: bool,
    best: int | None,
) -> Html:
    """Return the trials, best first by the first objective; `measured` holds the values of all objectives."""
    if not records:
        return empty("No trial was started.")
    paths = list(dict.fromkeys(path for record in records for path in record.values))
    seconds = [] if "seconds" in objectives else ["seconds"]
    header = ["trial", "status", *objectives, "best epoch", "epochs", *seconds, *short_names(paths)]
    has_reasons = any(record.reason for record in records)
    numeric = [at for at in range(len(header)) if at != 1 and not _is_text(records, paths, at - len(header))]
    header += ["reason"] if has_reasons else []
    rows = []
    for record in ranked(records, minimised):
        cells = [_number(record, best), text(record.status)]
        cells += [_cell(value) for value in measured[record.number]]
        cells += [_cell(record.best_epoch), _cell(record.epochs)]
        cells += [_cell(round(record.seconds, 1)) for _ in seconds]
        cells += [_cell(record.values[path], given=True) if path in record.values else Html("") for path in paths]
        rows.append(cells + ([_reason(record)] if has_reasons else []))
    full = dict(zip(short_names(paths), paths, strict=True))
    buttons = [
        Html(f'<button type="button" title="{text(full.get(name, name))}">{text(name)}</button>') for name in header
    ]
    return table(buttons, rows, numeric=numeric, kind="trials")


def _is_text(records: Sequence[TrialRecord], paths: Sequence[str], behind: int) -> bool:
    """Tell whether a column of parameters, counted from the last one, holds a text."""
    if -behind > len(paths):
        return False
    return any(isinstance(record.values.get(paths[behind]), str | bool) for record in records)


def _number(record: TrialRecord, best: int | None) -> Html:
    marks = [("winner", record.number == best), ("default", record.number == 0)]
    shown = "".join(f' <b class="mark {name}">{name}</b>' for name, is_so in marks if is_so)
    return Html(f'<data value="{record.number}">{record.number}</data>{shown}')


def _cell(value: Any, given: bool = False) -> Html:
    """Return a value with what it is sorted by; `given`: None was chosen, rather than unknown."""
    if value is None and not given:
        return Html("")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            return text("–")
        return Html(f'<data value="{value!r}">{text(show(value))}</data>')
    return text(written(value))


def _reason(record: TrialRecord) -> Html:
    reason = record.reason or ""
    first = reason.partition("\n")[0]
    if first == reason and len(reason) <= _LONGEST_REASON:
        return text(reason)
    return Html(f'<span title="{text(reason)}">{text(first[:_LONGEST_REASON])}…</span>')
