"""raysys tune: a train config and a space -> a better train config. `tune_study` is the same for other verbs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysys.commands.options import AsJson, DryRun, Root, Settings, print_json, print_plan
from raysys.errors import UserError

if TYPE_CHECKING:
    from tuning.plan import Plan

app = typer.Typer()


@app.command()
def tune(
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML file.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Start every trial from this run's weights.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset directory [ROOT/datasets/PROJECT].")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Study directory [ROOT/studies/PROJECT/TIME].")
    ] = None,
    settings: Settings = None,
    root: Root = None,
    trials: Annotated[int | None, typer.Option(help="Configurations to try (num_trials of the config).")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Go on with an interrupted study, or with more --trials.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Let the searcher know the trials of an earlier study.")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train the winner on train plus validation, test it, and name it `candidate`."),
    ] = False,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Search the space of a config by many short trainings, and print the path of the best train config."""
    from tuning.plan import describe, read_plan
    from tuning.study import Study

    changes = [*(settings or []), *([f"num_trials={trials}"] if trials is not None else [])]
    if resume is not None:
        given = {"CONFIG": config, "--from": start_from, "--dataset": dataset, "--output": output, "--set": settings}
        _refuse_beside_resume({**given, "--root": root, "--warm-start": warm_start})
        config = Study.open(resume).path / "tune.yaml"
    elif config is None:
        raise UserError("tune: name a CONFIG, or give --resume STUDY")
    plan = read_plan(config, changes, root=root, dataset=dataset, start_from=start_from)
    if dry_run:
        found = describe(plan)
        print_json(found) if json else print_plan(found)
        return
    _search(plan, output, resume, warm_start, refit, json)


def _search(
    plan: "Plan", output: str | None, resume: str | None, warm_start: str | None, refit: bool, json: bool
) -> None:
    """Run a search and print what came of it."""
    from tuning import search
    from tuning.study import Study

    if resume is not None:
        study, board = search.resume(plan, Study.open(resume))
    else:
        study, board = search.search(plan, output, warm_start)
    best, run = board.best, None
    if refit and best is not None:
        from tuning.refit import refit as train_winner

        run = train_winner(plan, best)
    if json:
        print_json(study.summary(board) | ({} if run is None else {"run": str(run.path)}))
        return
    print(study.best)
    if run is not None:
        print(run.path)


def _refuse_beside_resume(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"tune: --resume goes on with the study's own config; leave out {name} (--trials may be given)"
            )


def tune_study(
    config: str | Path | Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    settings: Sequence[str] = (),
) -> Path:
    """Run a search and return the path of its best.yaml.

    `config` is a YAML file or the same as a mapping; `base`, a train config as a mapping, stands in for the one it
    names.
    """
    from raysys.configfile import read_yaml
    from tuning.plan import read_plan
    from tuning.search import search

    if base is not None:
        config = {**(config if isinstance(config, Mapping) else read_yaml(config)), "base": dict(base)}
    study, _ = search(read_plan(config, settings), output)
    return study.best
