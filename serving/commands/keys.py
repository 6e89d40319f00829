"""raysys keys: who may ask the endpoint of a project."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from raysys.commands.options import AsJson, Root, print_json

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Add, list, revoke and rotate the keys of an endpoint."
)
Place = Annotated[str, typer.Argument(metavar="PROJECT", help="A project, or the path of a file of keys.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a key, as `raysys keys list` shows it.")]


@app.command()
def add(
    place: Place,
    name: Annotated[str, typer.Option(help="Who uses it.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, events or admin; several times for several.")] = None,
    rate: Annotated[float | None, typer.Option(help="Most requests a second, of each replica [no limit].")] = None,
    burst: Annotated[float | None, typer.Option(help="Most at once after a pause [those of a second].")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires [never].")] = None,
    root: Root = None,
) -> None:
    """Make a key and print it, this once; the file keeps its hash. Running replicas know it within two seconds."""
    from serving.access.keys import add_key, checked_scopes

    print(add_key(_file(place, root), name, checked_scopes(scope or ["read"]), rate, burst, days))


@app.command("list")
def list_keys(place: Place, root: Root = None, json: AsJson = False) -> None:
    """List the keys: ids, names, scopes, limits and dates, never the keys themselves."""
    from rich.console import Console
    from rich.table import Table

    from serving.access.keys import read_keys

    keys = read_keys(_file(place, root)).keys
    if json:
        print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in keys])
        return
    table = Table("id", "name", "scopes", "rate", "created", "expires")
    for key in keys:
        rate = "" if key.rate is None else f"{key.rate:g}/s"
        dates = [f"{date:%Y-%m-%d %H:%M}" if date is not None else "" for date in (key.created, key.expires)]
        table.add_row(key.id, key.name, ", ".join(key.scopes), rate, *dates)
    Console(width=None if Console().is_terminal else 120).print(table)


@app.command()
def revoke(place: Place, key: KeyId, root: Root = None) -> None:
    """Take a key back; running replicas refuse it within two seconds."""
    from raysys.progress import console
    from serving.access.keys import revoke_key

    revoke_key(_file(place, root), key)
    console.print(f"  revoked {key}", markup=False)


@app.command()
def rotate(
    place: Place,
    key: KeyId,
    overlap_hours: Annotated[float, typer.Option(min=0, help="Hours for which the old one still works.")] = 24.0,
    root: Root = None,
) -> None:
    """Make a new key like an old one and print it, this once; the old one expires after the overlap."""
    from serving.access.keys import rotate_key

    print(rotate_key(_file(place, root), key, timedelta(hours=overlap_hours)))


def _file(place: str, root: str | None) -> Path:
    from raysys.configfile import store_root

    if place.endswith(".json"):
        return Path(place)
    return Path(root or store_root()).absolute() / "serving" / place / "keys.json"
