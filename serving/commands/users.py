"""raysys users: put the users of a dataset into the store of live state, look at one, delete one."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from raysys.commands.options import AsJson, Root, Settings, print_json

if TYPE_CHECKING:
    from raysys.data.dataset import Manifest
    from serving.stores import Store

_T = TypeVar("_T")
app = typer.Typer(add_completion=False, no_args_is_help=True, help="Load, show and delete users of the live state.")
Source = Annotated[
    str, typer.Argument(metavar="RUN_OR_DATASET", help="The run that is served, or a dataset of the same project.")
]
Of = Annotated[
    str,
    typer.Option("--of", metavar="RUN_OR_DATASET", help="The run that is served, or a dataset of the same project."),
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE.yaml", help="The config that is served by: it names the store.")
]
User = Annotated[str, typer.Argument(metavar="USER_ID", help="User id, as clients send it.")]


@app.command()
def load(
    source: Source,
    config: Config = None,
    settings: Settings = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Put all users of a dataset into the store, in place of those of an earlier load; live events after it stay.

    A load that was interrupted is begun anew by calling it again. Replicas may answer meanwhile.
    """
    from raysys.data.dataset import Dataset
    from serving.users.seeding import load_users

    found = _found(source, root)
    dataset = Dataset.open(found.dataset)
    loading = _with_store(found, config, settings, lambda store: load_users(dataset, store))
    if json:
        print_json(asdict(loading))
    else:
        per_million = loading.seconds / max(loading.users, 1) * 1e6
        size = loading.bytes_per_user
        print(
            f"{loading.users:,} users in {loading.seconds:.1f} s ({per_million:,.0f} s a million), "
            f"{size:,.0f} bytes each ({size * 1e6 / (1 << 30):.2f} GiB a million)"
        )


@app.command()
def show(
    user_id: User,
    of: Of,
    config: Config = None,
    settings: Settings = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Show what is kept of a user: features, and events, oldest first."""
    source = _found(of, root)
    name = _name(source, user_id)

    async def read(store: "Store") -> tuple[Any, int]:
        return (await store.read([name], whole=True))[0], await store.size([name])

    state, size = _with_store(source, config, settings, read)
    if not state.events and state.profile is None:
        raise _nothing_kept(user_id, source)
    if json:
        profile = state.profile and asdict(state.profile)
        events = [event._asdict() for event in state.events]
        print_json({"user_id": user_id, "bytes": size, "profile": profile, "events": events})
        return
    print(f"user {user_id}: {len(state.events):,} events, {size:,} bytes")
    for column, value in (state.profile.features if state.profile else {}).items():
        print(f"  {column}: {value}")
    for event in state.events:
        print(f"  {event.pack().decode()}")


@app.command()
def delete(
    user_id: User,
    of: Of,
    config: Config = None,
    settings: Settings = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Delete everything that is kept of a user. The dataset still has its part: see `raysys data forget`."""
    source = _found(of, root)
    name = _name(source, user_id)
    deleted = _with_store(source, config, settings, lambda store: store.delete(name))
    if json:
        print_json({"user_id": user_id, "deleted": deleted})
    elif not deleted:
        raise _nothing_kept(user_id, source)
    else:
        print(f"deleted {user_id}")


@dataclass(frozen=True)
class _Source:
    """Whose users are meant."""

    dataset: Path
    manifest: "Manifest"
    project: str
    root: str
    """Where serving keeps what it has of the project."""


def _found(source: str, root: str | None) -> _Source:
    import raysys
    from raysys.configfile import store_root
    from raysys.data.dataset import MANIFEST, Dataset, versions

    path = Path(source)
    if path.is_dir() and ((path / MANIFEST).is_file() or versions(path)):
        dataset = Dataset.open(path)
        return _Source(dataset.path, dataset.manifest, dataset.manifest.project, root or store_root())
    run = raysys.load(source, root)
    return _Source(Path(run.record.dataset), run.manifest, run.record.project, run.config.root)


def _name(source: _Source, user_id: str) -> str:
    from serving.users.identity import Identity

    return Identity(source.manifest).name(user_id)


def _nothing_kept(user_id: str, source: _Source) -> Exception:
    from raysys.errors import UserError

    return UserError(f"USER_ID {user_id}: nothing is kept of this user in the store of {source.project}")


def _with_store(
    source: _Source,
    config: Path | None,
    settings: list[str] | None,
    work: "Callable[[Store], Awaitable[_T]]",
) -> _T:
    """Do a piece of work with the store that a config of serving names."""
    from raysys.configfile import apply_settings, build, read_yaml
    from raysys.errors import UserError
    from serving.config import ServeConfig
    from serving.stores import StoreDownError, make_store

    where = str(config) if config is not None else "serve"
    node = apply_settings(read_yaml(config) if config is not None else {}, settings or [])
    checked = build(ServeConfig, node, where).with_places(source.root, source.project)

    async def run() -> _T:
        store = make_store(checked.store)
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreDownError as error:
        raise UserError(
            f"store: it does not answer ({error}); start it, or give the right config, and try again"
        ) from None
