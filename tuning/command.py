"""raysys tune: a train config and a space -> a better train config. `tune_study` is the same for other verbs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from raysys.commands.options import AsJson, ConfigFile, DryRun, Root, Settings, print_json, print_plan

app = typer.Typer()


@app.command()
def tune(
    config: ConfigFile,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="Start every trial from this run's weights.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset directory [ROOT/datasets/PROJECT].")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Study directory [ROOT/studies/PROJECT/TIME].")
    ] = None,
    settings: Settings = None,
    root: Root = None,
    trials: Annotated[int | None, typer.Option(help="Configurations to try [num_trials of the config].")] = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Search the space of a config by many short trainings, and print the path of the best train config."""
    from tuning.plan import describe, read_plan

    changes = [*(settings or []), *([f"num_trials={trials}"] if trials is not None else [])]
    plan = read_plan(config, changes, root=root, dataset=dataset, start_from=start_from)
    if dry_run:
        found = describe(plan)
        print_json(found) if json else print_plan(found)
        return
    from tuning.search import search

    study, board = search(plan, output)
    if json:
        print_json(study.summary(board))
    else:
        print(study.best)


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
