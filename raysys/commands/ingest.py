"""raysys ingest: logs -> dataset."""

from pathlib import Path
from typing import Annotated

import typer

from raysys.commands.options import AsJson, ConfigFile, DryRun, Root, Settings, load_config, print_json, print_plan

app = typer.Typer(add_completion=False)


@app.command()
def ingest(
    config: ConfigFile,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Dataset directory [ROOT/datasets/PROJECT].")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Read only files that the newest version has not read, and extend it.")
    ] = False,
    sample_users: Annotated[
        float | None, typer.Option(help="Keep this share of the users, for a first try on a huge log.")
    ] = None,
    settings: Settings = None,
    root: Root = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Turn interaction logs into a dataset of memory-mapped shards."""
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest as run_ingest
    from raysys.data.inventory import describe

    checked = load_config(IngestConfig, config, settings, root=root, sample_users=sample_users)
    if dry_run:
        plan = describe(checked)
        print_json(plan) if json else print_plan(plan)
        return
    dataset = run_ingest(checked, output, append)
    if json:
        print_json({"dataset": str(dataset.path), **dataset.manifest.model_dump(mode="json")})
    else:
        print(dataset.path)
