"""raysys runs: list, show, compare, report, promote and roll back."""

from typing import Annotated

import typer

from raysys.commands.options import AsJson, Root, RunName, print_json

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, show, compare, report, promote and roll back runs."
)
Alias = Annotated[str, typer.Option(help="Name of the alias.")]


@app.command("list")
def list_runs(
    project: Annotated[str | None, typer.Argument(help="Only this project.")] = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """List the finished runs, oldest first, with the aliases that point at them."""
    from rich.console import Console
    from rich.table import Table

    from raysys import runs
    from raysys.configfile import store_root

    place = root or store_root()
    found = runs.list_runs(place, project)
    names = {
        run.record.run_id: [
            alias for alias, target in runs.aliases(place, run.record.project).items() if target == run.record.run_id
        ]
        for run in found
    }
    if json:
        print_json([{**run.record.model_dump(mode="json"), "aliases": names[run.record.run_id]} for run in found])
        return
    table = Table("run", "project", "aliases", "epochs", "seconds", "valid", "test")
    for run in found:
        record = run.record
        scores = [
            next((f"{n} {v:.4f}" for n, v in part.items() if "ndcg@10" in n), "")
            for part in (record.valid, record.test)
        ]
        aliases = ", ".join(names[record.run_id])
        table.add_row(record.run_id, record.project, aliases, str(record.epochs), f"{record.seconds:.0f}", *scores)
    Console(width=None if Console().is_terminal else 140).print(table)


@app.command()
def show(run: RunName, root: Root = None, json: AsJson = False) -> None:
    """Show a run's facts and its evaluation.

    --json prints the facts of run.json, "path", and "reports": one per split, in the shape of `raysys evaluate --json`.
    """
    from rich.console import Console

    import raysys
    from raysys.evaluation.protocol import EvalReport
    from raysys.evaluation.report import print_report

    opened = raysys.load(run, root)
    reports = opened.reports
    if json:
        print_json({**opened.record.model_dump(mode="json"), "path": str(opened.path), "reports": reports})
        return
    console = Console(highlight=False)
    for name, value in opened.record.model_dump(exclude={"valid", "test"}).items():
        console.print(f"{name}: {value}", soft_wrap=True, markup=False)
    for report in reports:
        print_report(EvalReport.from_json(report))


@app.command()
def compare(
    run: RunName,
    other: RunName,
    split: Annotated[str, typer.Option(help="Which held-out events: valid or test.")] = "test",
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Compare two runs user by user: OTHER minus RUN, with a paired bootstrap over the users that both evaluated.

    --json prints {"first", "second" (run ids), "split", "num_users", "num_users_each": [first, second], "pairing",
    "differences": [{"metric", "first", "second", "difference", "low", "high", "share_above_zero", "num_users"}]}.
    """
    import raysys
    from raysys.errors import UserError
    from raysys.evaluation.compare import compare as compare_outcomes
    from raysys.evaluation.outcomes import Kept
    from raysys.evaluation.report import comparison_table, print_table

    if split not in ("valid", "test"):
        raise UserError(f"--split {split}: valid or test")
    first, second = raysys.load(run, root), raysys.load(other, root)
    same = first.record.dataset_fingerprint == second.record.dataset_fingerprint
    if not same and first.record.project != second.record.project:
        raise UserError(
            f"{run} is of project {first.record.project}, {other} of {second.record.project}: their users are not the "
            "same people; compare runs on the same dataset, or on versions of one project's"
        )
    kept = [Kept.read(opened.path, split) for opened in (first, second)]
    found = compare_outcomes(kept[0], kept[1], split, same, first.config.evaluation)
    ids = first.record.run_id, second.record.run_id
    if json:
        print_json({"first": ids[0], "second": ids[1], **found.to_json()})
        return
    print_table(comparison_table(found, *ids))


@app.command()
def report(run: RunName, root: Root = None) -> None:
    """Write the run's report.html again and print its path: one page that needs no network."""
    import raysys
    from raysys.training.report import write_report

    print(write_report(raysys.load(run, root)))


@app.command()
def promote(run: RunName, alias: Alias = "champion", root: Root = None) -> None:
    """Point project@ALIAS at a run."""
    import raysys
    from raysys import runs
    from raysys.configfile import store_root

    opened = raysys.load(run, root)
    runs.promote(opened, root or store_root(), alias)
    print(f"{opened.record.project}@{alias}")


@app.command()
def rollback(
    project: Annotated[str, typer.Argument(metavar="PROJECT@ALIAS", help="The alias to point back.")], root: Root = None
) -> None:
    """Point an alias back at the run before."""
    from raysys import runs
    from raysys.configfile import store_root

    name, _, alias = project.partition("@")
    print(runs.rollback(root or store_root(), name, alias or "champion"))
