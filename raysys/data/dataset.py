"""A dataset directory: versions side by side, each whole when its manifest is there."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from raysys.data.catalog import Catalog, vocabularies
from raysys.data.columns import ColumnSchema
from raysys.data.files import read_arrow, write_bytes
from raysys.data.schema import CATEGORY_PREFIX, PAD, UNKNOWN, Split
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError

MANIFEST = "manifest.json"
USERS = "users.arrow"
SCHEMA_VERSION = 2
_PARTS = {
    *("staging", "shards", "rejected", "log", "items", "values", "categories"),
    *("vocabulary.arrow", "catalog.arrow", USERS, "rows.arrow", "lanes.json", "files.json"),
}


class View(BaseModel):
    """The version whose shards another one reads, with fewer items."""

    model_config = ConfigDict(frozen=True)

    of: str
    """Its directory."""
    fingerprint: str
    """What it was when the view was made."""


class Manifest(BaseModel):
    """What a dataset version holds. It is written last: a version without it does not exist."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA_VERSION
    project: str
    version: str
    fingerprint: str
    """sha256 over the shards, vocabulary and catalog: equal fingerprints are equal datasets."""
    num_users: int
    num_items: int
    num_events: int
    events_by_split: dict[str, int]
    events_by_name: dict[str, list[int]] = {}
    """Events of each kind in training, validation and test."""
    event_names: tuple[str, ...]
    history: tuple[str, ...]
    labels: tuple[str, ...]
    label_means: dict[str, float]
    """Mean of each label over training events."""
    numbers: tuple[str, ...] = ()
    """Numbers of the context that events carry."""
    categories: dict[str, int] = {}
    """Categories of the context that events carry: size of each one's index, PAD and UNKNOWN included."""
    user_columns: ColumnSchema = ColumnSchema()
    """Features of users."""
    item_columns: ColumnSchema = ColumnSchema()
    """Features of items."""
    shards: tuple[str, ...]
    time_range: tuple[int, int] | None
    """First and last event, ms; null where the logs have no times."""
    rows: int
    kept: int
    rejected: dict[str, int]
    """Rows that broke a rule, by rule. rows = kept + rejected + cleaned, always."""
    cleaned: dict[str, int] = {}
    """Rows that were left out on purpose, by reason."""
    cleaned_rows: dict[str, int] = {}
    """The part of `cleaned` that never reached the log of the dataset."""
    time_units: tuple[str | None, ...] = ()
    """Unit of the times of each source; null where it has none."""
    tables: dict[str, dict[str, int]] = {}
    """Rows of the table of items: read, kept, left out by reason."""
    parent: str | None = None
    """The version that this one extends."""
    key_check: str | None = None
    """Tells whether a key is the one that made the pseudonyms."""
    forgotten: int = 0
    """Users that were removed on request."""
    view: View | None = None
    """Of a version without shards of its own: whose it reads. Items that its vocabulary lacks are unknown there."""
    config: dict
    """The resolved ingest config."""


class Dataset:
    """One version of a dataset, opened for reading."""

    def __init__(
        self, path: Path, manifest: Manifest, trains_on_validation: bool = False, base: "Dataset | None" = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.base = base or self
        """The version that holds the shards: this one, unless it is a view."""
        self.trains_on_validation = trains_on_validation
        """Whether events of the validation period count as training, and nothing is left to validate with."""

    @staticmethod
    def open(path: str | Path) -> "Dataset":
        """Open a dataset directory (its newest whole version) or one version inside it.

        Raises:
            UserError: there is no dataset, or this raysys cannot read it.
        """
        path = Path(path)
        if not path.is_dir():
            raise UserError(f"{path}: no such dataset; make one with `raysys ingest CONFIG` (-o {path})")
        whole = path if (path / MANIFEST).is_file() else next(iter(reversed(versions(path))), None)
        if whole is None:
            raise UserError(f"{path}: not a dataset (no {MANIFEST}); make one with `raysys ingest CONFIG -o {path}`")
        try:
            node = json.loads((whole / MANIFEST).read_text())
            manifest = Manifest.model_validate(node)
        except (ValidationError, json.JSONDecodeError) as error:
            raise UserError(f"{whole / MANIFEST}: not a manifest of raysys: {str(error).splitlines()[0]}") from None
        if manifest.schema_version != SCHEMA_VERSION:
            raise UserError(
                f"{whole}: written with dataset schema {manifest.schema_version}, this raysys reads "
                f"{SCHEMA_VERSION}; run `raysys ingest` again"
            )
        return Dataset(whole, manifest, base=_base_of(whole, manifest.view))

    def with_validation(self) -> "Dataset":
        """Return the same with the validation period as part of training: for a last training before a release.

        Items that came in that period stay unknown, and popularity stays that of the training period.
        """
        return Dataset(self.path, self.manifest, trains_on_validation=True, base=self.base)

    @property
    def item_places(self) -> np.ndarray | None:
        """Index here of every item index in the shards [V of the base] i32; None where they are the same."""
        if self.manifest.view is None:
            return None
        special = np.array([PAD, UNKNOWN], np.int32)
        return np.concatenate([special, self.vocabulary.encode(self.base.vocabulary.item_ids).to_numpy()])

    @property
    def vocabulary(self) -> Vocabulary:
        """The item vocabulary."""
        return Vocabulary.load(self.path / "vocabulary.arrow")

    @property
    def catalog(self) -> Catalog:
        """The item catalog."""
        return Catalog.load(self.path / "catalog.arrow")

    @property
    def rows(self) -> pa.Table:
        """Event and token counts per user (ROWS), in shard order."""
        table = read_arrow(self.base.path / "rows.arrow")
        for name in ("events", "tokens") if self.trains_on_validation else ():
            train, valid = f"train_{name}", f"valid_{name}"
            both = pc.add(table[train], table[valid])
            table = table.set_column(table.column_names.index(train), train, both)
            table = table.set_column(table.column_names.index(valid), valid, pc.subtract(table[valid], table[valid]))
        return table

    @property
    def users_path(self) -> Path:
        """The features of users, in shard order; the file is there where the dataset has some."""
        return self.base.path / USERS

    @property
    def shard_paths(self) -> list[Path]:
        """The shards, in their order."""
        return [self.base.path / "shards" / name for name in self.manifest.shards]

    def category_values(self, name: str) -> Vocabulary:
        """The values of a context category, in the order of their indices."""
        return Vocabulary.load(category_path(self.base.path, name))

    def values_by_column(self) -> dict[str, dict[str, list[str]]]:
        """Return the values of every category of the context and of users, each in the order of its indices."""
        context = {name: self.category_values(name).item_ids.to_pylist() for name in self.manifest.categories}
        users = vocabularies(read_arrow(self.users_path)) if self.manifest.user_columns.categories else {}
        of_users = {name.removeprefix(CATEGORY_PREFIX): values.to_pylist() for name, values in users.items()}
        return {"context": context, "users": of_users}

    def rows_with_targets(self, split: Split) -> np.ndarray:
        """Return the rows (i64, ascending) of users with at least one event of the split."""
        name = {Split.TRAIN: "train", Split.VALID: "valid", Split.TEST: "test"}[split]
        return np.flatnonzero(self.rows[f"{name}_events"].to_numpy() > 0)


def _base_of(path: Path, view: View | None) -> Dataset | None:
    """Return what a view is of.

    Raises:
        UserError: it is gone, or was rewritten.
    """
    if view is None:
        return None
    base = Dataset.open(view.of)
    if base.manifest.fingerprint != view.fingerprint:
        raise UserError(f"{path}: a view of {view.of}, which was rewritten since; make the view again")
    return base


def category_path(version: Path, name: str) -> Path:
    """Return where a dataset version keeps the values of a context category, in index order."""
    return version / "categories" / f"{file_name(name)}.arrow"


def file_name(name: str) -> str:
    """Return a name of the user's as the name of a file, whatever characters it has."""
    quoted = quote(name, safe="")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted  # a hidden file is one that is not whole


def versions(path: Path) -> list[Path]:
    """Return the whole versions of a dataset directory, oldest first."""
    return sorted(found.parent for found in path.glob(f"v[0-9]*/{MANIFEST}"))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let nobody else on this machine change a dataset directory meanwhile; mend first what a crash left half renamed.

    Raises:
        UserError: somebody else is changing it.
    """
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"raysys-{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{path}: another process is writing this dataset; wait for it or give another -o") from None
    try:
        for old in path.glob(".v*.old"):  # a version that was to be replaced as a whole
            version = path / old.name.removeprefix(".").removesuffix(".old")
            shutil.rmtree(old) if version.exists() else old.rename(version)
        yield
    finally:
        lock.release()


def replace_version(version: Path, fresh: Path) -> None:
    """Put a rewritten version in the place of the old one; a crash in between is mended by the next who writes."""
    old = version.with_name(f".{version.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    version.rename(old)
    fresh.rename(version)
    shutil.rmtree(old)


def new_version(path: Path) -> Path:
    """Make an empty directory for the next version; what an interrupted ingestion left is removed.

    Raises:
        UserError: the path exists and is something else than a dataset directory.
    """
    whole = versions(path)
    leftovers = [old for old in path.glob("v[0-9]*") if old not in whole and _is_leftover(old)]
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not whole and not leftovers)):
        raise UserError(f"-o {path}: exists and is not a dataset directory; give another path")
    for old in leftovers:
        shutil.rmtree(old)
    number = 1 + max((int(old.name[1:]) for old in whole), default=0)
    fresh = path / f"v{number:04d}"
    fresh.mkdir(parents=True)
    return fresh


def _is_leftover(path: Path) -> bool:
    """Tell whether a directory holds nothing but what an ingestion writes: only then may it be removed."""
    return path.is_dir() and all(found.name in _PARTS or found.name.endswith(".partial") for found in path.iterdir())


def commit(version: Path, manifest: Manifest) -> Dataset:
    """Write the manifest, which makes the version visible; an unchanged dataset keeps its older version."""
    earlier = versions(version.parent)
    if earlier and _fingerprint(earlier[-1]) == manifest.fingerprint:
        shutil.rmtree(version)
        return Dataset.open(earlier[-1])
    write_bytes(manifest.model_dump_json(indent=1).encode(), version / MANIFEST)
    return Dataset(version, manifest)


def _fingerprint(version: Path) -> str | None:
    """Return the fingerprint of a version, also of one that another raysys wrote."""
    found: str | None = json.loads((version / MANIFEST).read_text()).get("fingerprint")
    return found
