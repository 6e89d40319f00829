"""raysys export: run -> smaller or faster runs, each measured beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysys.commands.options import AsJson, Root, RunName, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from serving.export.making import Exports

app = typer.Typer(add_completion=False)


@app.command()
def export(
    run: RunName,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[+KIND]",
            help="pruned, bf16, int8, compiled or onnx; joined by + for one export; repeatable [each that works].",
        ),
    ] = None,
    min_events: Annotated[
        int | None, typer.Option(min=1, help="pruned: keep items with so many history events in training.")
    ] = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="pruned: keep so many of the most frequent items.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory for the exports; by default that of the run.")
    ] = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Make smaller or faster runs of a run, and measure size, latency and loss of NDCG beside it.

    What is made are runs again: serve, evaluate and recommend take them. --json prints {"original": {figure: value},
    "exports": {kinds: {"run", "path", figure: value}}, "refused": {kinds: reason}, "split", "metric"}.
    """
    import raysys
    from raysys.progress import stage
    from serving.export.making import export as make

    opened = raysys.load(run, root)
    given = {"min_events": min_events, "max_items": max_items}
    with stage(f"export {opened.record.run_id}") as remarks:
        found = make(opened, kind or (), {name: value for name, value in given.items() if value is not None}, output)
        remarks.append(f"{len(found.runs)} made, {len(found.refused)} refused")
    _print_json(found) if json else _print(found)


def _print(found: "Exports") -> None:
    from raysys.evaluation.report import print_table
    from raysys.progress import console

    print_table(_table(found))
    for reason in found.refused.values():
        console.print(f"  not made: {reason}", markup=False, soft_wrap=True)
    for one in found.runs.values():
        console.print(f"  {one.path}", markup=False, soft_wrap=True)


def _table(found: "Exports") -> "Table":
    from rich import box
    from rich.table import Table

    from serving.export.measuring import ORIGINAL, SEVERAL

    original = found.measured[ORIGINAL]
    metric, report = original.metric, original.report
    title = f"{report.split} split, {report.num_users:,} users; one thread, from history to the best 10 of all items"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.title_justify = "left"
    columns = ("model MiB", "served MiB", "ms p50", "p99", f"ms of {SEVERAL} p50", "p99", metric, "loss")
    table.add_column("export", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in found.measured.items():
        sizes = [f"{one.figures[key] / (1 << 20):.2f}" for key in ("model_bytes", "served_bytes")]
        times = [f"{one.figures[f'p{share}_ms_{count}']:.2f}" for count in (1, SEVERAL) for share in (50, 99)]
        loss = "" if name == ORIGINAL else f"{original.figures[metric] - one.figures[metric]:+.4f}"
        table.add_row(name, *sizes, *times, f"{one.figures[metric]:.4f}", loss)
    return table


def _print_json(found: "Exports") -> None:
    from serving.export.measuring import ORIGINAL

    original = found.measured[ORIGINAL]
    made = {
        name: {"run": one.record.run_id, "path": str(one.path), **found.measured[name].figures}
        for name, one in found.runs.items()
    }
    facts = {"split": original.report.split, "metric": original.metric, "refused": found.refused}
    print_json({"original": original.figures, "exports": made, **facts})
