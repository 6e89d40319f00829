"""raysys data forget: remove a user from a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from raysys.commands.options import AsJson, Root, print_json


def forget(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Dataset directory.")],
    user: Annotated[str, typer.Argument(metavar="USER", help="User id, as it stands in the logs.")],
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Remove a user from every kept version, and list the runs that were trained on one of them.

    The logs themselves are yours to clean: a user who stays in them comes back when they are ingested anew.
    """
    from rich.console import Console

    from raysys.configfile import store_root
    from raysys.data.forget import forget as remove
    from raysys.runs import list_runs

    removed = remove(dataset, user)
    names = {one.version for one in removed if one.events}
    runs = [
        run
        for run in list_runs(root or store_root())
        if run.record.dataset_version in names and Path(run.record.dataset).parent.resolve() == dataset.resolve()
    ]
    if json:
        print_json({"versions": [vars(one) for one in removed], "runs": [str(run.path) for run in runs]})
        return
    console = Console(highlight=False)
    for one in removed:
        console.print(f"{one.version}: {one.events:,} events and {one.rejected:,} rejected rows removed")
    console.print(f"runs trained on the user's events: {len(runs) or 'none'}")
    for run in runs:
        console.print(f"  {run.path}", soft_wrap=True)
