"""Prints an evaluation as a table: every metric with its interval, beside the baseline."""

from rich import box
from rich.console import Console
from rich.table import Table

from raysys.evaluation.protocol import Estimate, EvalReport


def report_table(report: EvalReport) -> Table:
    """Return the table of a report."""
    caption = f"{report.protocol}; baseline: popularity for lists, the training mean for labels"
    table = Table(title=f"{report.split} split", caption=caption, box=box.SIMPLE_HEAD)
    table.title_justify = table.caption_justify = "left"
    for column in ("metric", "value", "interval", "baseline", "ratio", "users"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name, found in report.metrics.items():
        base = report.popularity.get(name)
        table.add_row(name, _number(found.mean), _interval(found), *_beside(found, base), f"{found.count:,}")
    return table


def print_report(report: EvalReport) -> None:
    """Print a report on stdout."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(report_table(report))
    for note in report.notes:
        console.print(note, highlight=False)


def _beside(found: Estimate, base: Estimate | None) -> tuple[str, str]:
    if base is None:
        return "", ""
    return _number(base.mean), f"{found.mean / base.mean:.2f}" if base.mean else ""


def _interval(found: Estimate) -> str:
    return f"{_number(found.low)} .. {_number(found.high)}" if found.low != found.high else ""


def _number(value: float) -> str:
    return f"{value:.4f}"
