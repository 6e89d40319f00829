"""Prints an evaluation: every metric with its interval beside the baselines, then the slices in short form."""

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

from raysys.evaluation.compare import Comparison
from raysys.evaluation.protocol import Estimate, EvalReport, depth_of


def report_table(report: EvalReport) -> Table:
    """Return the table of a report: a row per metric, a column per baseline, the ratio to the first that has it."""
    of_all = "" if report.num_users == report.num_users_of_split else f" of {report.num_users_of_split:,}"
    users = f", {report.num_users:,}{of_all} users" if report.num_users else ""
    table = _table(f"{report.split} split{users}", report.protocol)
    rivals = [name for name, metrics in report.baselines.items() if metrics]
    for column in ("metric", "value", "interval", *(name.replace("_", " ") for name in rivals), "ratio", "users"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    depth = 0
    for name, found in report.metrics.items():
        if depth_of(name) != depth:
            depth = depth_of(name)
            table.add_section()
        beside = [report.baselines[rival].get(name) for rival in rivals]
        shown = [_number(base.mean) if base else "" for base in beside]
        first = next((base for base in beside if base), None)
        ratio = f"{found.mean / first.mean:.2f}" if first and first.mean > 0 and found.mean >= 0 else ""
        table.add_row(name, _number(found.mean), _interval(found), *shown, ratio, f"{found.count:,}")
    return table


def slices_table(slices: Mapping[str, Mapping[str, Estimate]]) -> Table:
    """Return the table of the slices: a row per slice, a column per metric."""
    table = _table("slices", None)
    metrics = list(dict.fromkeys(name for part in slices.values() for name in part))
    for column in ("slice", *(name.rpartition(".")[2] for name in metrics), "users"):
        table.add_column(column, justify="left" if column == "slice" else "right", no_wrap=True)
    for name, part in slices.items():
        counts = [found.count for found in part.values()]
        shown = [_number(part[metric].mean) if metric in part else "" for metric in metrics]
        table.add_row(name, *shown, f"{max(counts, default=0):,}")
    return table


def comparison_table(comparison: Comparison, first: str, second: str) -> Table:
    """Return the table of a comparison of two runs; an interval that does not hold 0 is marked.

    Columns are A and B, whatever the runs are called: long names would leave no room for the figures.
    """
    users = f"{comparison.num_users:,} users in common of {' and '.join(f'{n:,}' for n in comparison.num_users_each)}"
    title = f"{comparison.split} split, {users}\nA: {first}\nB: {second}"
    table = _table(title, f"* the interval does not hold 0; users paired {comparison.pairing}")
    for column in ("metric", "A", "B", "B - A", "interval", "", "above 0", "users"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for found in comparison.differences:
        clear = "*" if found.low > 0 or found.high < 0 else ""
        values = (_number(found.first), _number(found.second), f"{found.difference:+.4f}")
        interval = f"{found.low:+.4f} .. {found.high:+.4f}"
        table.add_row(found.metric, *values, interval, clear, f"{found.share_above_zero:.0%}", f"{found.num_users:,}")
    return table


def print_report(report: EvalReport) -> None:
    """Print a report on stdout."""
    print_table(report_table(report))
    if report.slices:
        print_table(slices_table(report.slices))
    for note in report.notes:
        Console().print(note, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table on stdout, as wide as a terminal, or 140 columns where there is none."""
    Console(width=None if Console().is_terminal else 140).print(table)


def _table(title: str, caption: str | None) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    return table


def _interval(found: Estimate) -> str:
    return f"{_number(found.low)} .. {_number(found.high)}" if found.low != found.high else ""


def _number(value: float) -> str:
    return f"{value:.4f}"
