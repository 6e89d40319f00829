"""raysys train: dataset -> run. Pretraining and fine-tuning are the same verb."""

from pathlib import Path
from typing import Annotated

import typer

from raysys.commands.options import AsJson, DryRun, Root, Settings, load_config, print_json, print_plan
from raysys.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Start from this run's weights.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with an unfinished run directory.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset directory [ROOT/datasets/PROJECT].")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Run directory [ROOT/runs/PROJECT/TIME].")
    ] = None,
    settings: Settings = None,
    root: Root = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Train a model; keeps the best epoch, evaluates it beside popularity, and prints the run's directory."""
    from raysys.config import RunConfig
    from raysys.training import fit

    if (config is None) == (resume is None):
        raise UserError("train: give either a CONFIG or --resume RUN")
    if resume is not None:
        run = fit.resume(resume)
    else:
        checked = load_config(RunConfig, config, settings, root=root, dataset=dataset, start_from=start_from)  # type: ignore[arg-type]
        if dry_run:
            plan = fit.describe(checked)
            print_json(plan) if json else print_plan(plan)
            return
        run = fit.train(checked, output)
    if json:
        print_json({"run": str(run.path), **run.record.model_dump(mode="json")})
    else:
        print(run.path)
