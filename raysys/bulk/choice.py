"""Whom a call asks for and which items may be recommended: the files that users give, as rows and indices."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import UNKNOWN, Split
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError


@dataclass(frozen=True)
class Asked:
    """Users of a dataset, and the period whose begin they are asked at."""

    rows_U: np.ndarray  # i64, ascending
    split: Split
    unknown: int
    """Ids that were asked for and that the dataset does not have."""


def choose_users(users: str, dataset: Dataset) -> Asked:
    """Find whom `--users` means: `test`, `all`, or a file of ids.

    Raises:
        UserError: there is no such file, it cannot be read, or it names nobody.
    """
    if users == "test":
        asked = Asked(dataset.rows_with_targets(Split.TEST), Split.TEST, 0)
    elif users == "all":
        asked = Asked(np.arange(dataset.manifest.num_users), Split.NONE, 0)
    else:
        return _users_of_file(users, dataset)
    if not len(asked.rows_U):
        raise UserError(f"--users {users}: {dataset.path} has no such users")
    return asked


def choose_items(path: str, vocabulary: Vocabulary) -> tuple[np.ndarray, int]:
    """Return the indices [N] i64, ascending, of the items of a file that training knows, and how many it does not.

    Raises:
        UserError: there is no such file, it cannot be read, or training knows none of it.
    """
    wanted = pc.unique(_read_ids("--items", Path(path), "item_id"))
    found = vocabulary.encode(wanted).to_numpy(zero_copy_only=False)
    items = np.sort(found[found != UNKNOWN]).astype(np.int64)
    if not len(items):
        raise UserError(f"--items {path}: training knows none of its {len(wanted):,} ids")
    return items, len(wanted) - len(items)


def _users_of_file(path: str, dataset: Dataset) -> Asked:
    wanted = pc.unique(_read_ids("--users", Path(path), "user_id"))
    rows_U = np.arange(dataset.manifest.num_users)
    known = pc.is_in(ShardReader(dataset, labels=()).user_ids(rows_U), wanted).to_numpy(zero_copy_only=False)
    if not known.any():
        raise UserError(f"--users {path}: none of its {len(wanted):,} ids is a user of {dataset.path}")
    return Asked(rows_U[known], Split.NONE, len(wanted) - int(known.sum()))


def _read_ids(option: str, path: Path, column: str) -> pa.Array:
    """Return the ids of a text file, one a line, or of a column of a parquet file."""
    if not path.is_file():
        words = "test, all, or a file of user ids" if option == "--users" else "a file of item ids"
        raise UserError(f"{option} {path}: {words}; there is no such file")
    if path.suffix != ".parquet":
        lines = path.read_text(encoding="utf-8").splitlines()
        return pa.array([line.strip() for line in lines if line.strip()], pa.string())
    try:
        ids = pq.read_table(path, columns=[column])[column]
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"{option} {path}: not a parquet file with a column {column}: {error}") from None
    return pc.drop_null(pc.cast(ids, pa.string())).combine_chunks()
