"""raysys data: look at a dataset, remove a user from it, generate logs to try."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysys.commands.forget import forget
from raysys.commands.generate import generate
from raysys.commands.options import AsJson, print_json

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at a dataset, forget a user, generate logs.")
app.command()(forget)
app.command()(generate)
DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="Dataset directory, or one version inside it.")]


@app.command()
def show(
    dataset: DatasetPath,
    json: AsJson = False,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write one self-contained page instead.")] = None,
) -> None:
    """Show counts, the funnel of events, history lengths, popularity, times, labels, features and rejected rows."""
    import dataclasses

    from raysys.data.dataset import Dataset
    from raysys.data.profile import profile
    from raysys.errors import UserError

    if html is not None and html.is_dir():
        raise UserError(f"--html {html}: is a directory; give the path of a file")
    facts = profile(Dataset.open(dataset))
    if html is not None:
        from raysys.data.files import write_bytes
        from raysys.data.page import page

        write_bytes(page(facts).encode(), html)
    if json:
        print_json(dataclasses.asdict(facts))
    elif html is not None:
        print(html)
    else:
        from raysys.commands.dataset_tables import profile_tables

        _print(profile_tables(facts))


@app.command()
def sample(
    dataset: DatasetPath,
    users: Annotated[int, typer.Option(min=1, help="How many users, spread over the dataset.")] = 3,
    events: Annotated[int, typer.Option(min=1, help="Most events per user: the newest.")] = 10,
    user: Annotated[str | None, typer.Option(metavar="ID", help="One user instead.")] = None,
) -> None:
    """Print a few users as a person would read them: their features, and their events in order."""
    from raysys.commands.user_tables import find_user, spread_users, user_tables
    from raysys.data.dataset import Dataset

    opened = Dataset.open(dataset)
    rows = spread_users(opened, users) if user is None else find_user(opened, user)
    _print(user_tables(opened, rows, events))


@app.command()
def versions(dataset: DatasetPath, json: AsJson = False) -> None:
    """List the whole versions of a dataset, oldest first, with the files that each has read."""
    import dataclasses

    from raysys.commands.dataset_tables import version_table
    from raysys.data.dataset import Dataset
    from raysys.data.profile import files_read, siblings, version_facts

    found = siblings(Dataset.open(dataset))
    if json:
        print_json([dataclasses.asdict(version_facts(one)) | {"files_read": files_read(one.path)} for one in found])
    else:
        _print([version_table([version_facts(one) for one in found])])


def _print(parts: "Iterable[RenderableType]") -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 120)
    for part in parts:
        console.print(part)
