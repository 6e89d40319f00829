"""What was found for each user, before any mean is taken: merged over batches and ranks, and kept with the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.schema import FIRST_ITEM
from raysys.errors import UserError
from raysys.evaluation.pointwise import Predictions

FOLDER = "outcomes"
_LIST, _PREDICTED, _LABEL, _RAW = "items", ".predicted", ".label", ".raw"
_POSITIVE_FROM, _PREDICTS = ".positive_from", ".predicts"


@dataclass(frozen=True)
class Outcomes:
    """Lists of some users, what they are measured by, and the predictions of labels. Users are rows of the dataset."""

    users_U: np.ndarray  # i64, ascending after merge
    items_UK: np.ndarray  # i64, ranked lists; PAD where a list is shorter
    known_U: np.ndarray  # i64, history events before the split whose item training knows
    profile_U: np.ndarray  # f64, mean training events of the items of these events; NaN where there are none
    relevant_users_N: np.ndarray  # i64, pairs of (user, item) that were held out
    relevant_items_N: np.ndarray  # i64
    per_user: Mapping[str, np.ndarray] = field(default_factory=dict)  # "next_item.ndcg@10" -> [U] f64, NaN = undefined
    predictions: Mapping[str, Predictions] = field(default_factory=dict)  # task -> labelled pairs
    items: Mapping[str, Predictions] = field(default_factory=dict)  # task -> items, which stand in the place of users
    further: Mapping[str, "Outcomes"] = field(default_factory=dict)  # lists of the retrieving tasks behind the first

    @property
    def relevant_rows(self) -> np.ndarray:
        """The row of `users_U` that each held-out pair belongs to [N]."""
        return np.searchsorted(self.users_U, self.relevant_users_N)

    @property
    def prefix(self) -> str:
        """What stands before the dot in the names of the metrics of the lists; empty where there are none."""
        return next((name.rpartition(".")[0] for name in self.per_user), "")


def no_outcomes() -> Outcomes:
    """Return what is found for nobody."""
    none = np.zeros(0, np.int64)
    return Outcomes(none, np.zeros((0, 0), np.int64), none, none.astype(np.float64), none, none)


def write_outcomes(outcomes: Outcomes, user_ids: pa.Array, users: np.ndarray, path: Path) -> None:
    """Write one row per user (`users`, ascending rows of the dataset, with their ids) as parquet.

    Columns: row i64; user_id; history i32 (known events); items, the list as item indices (null without a list); each
    metric of `per_user` f32 under its name, null where it is undefined; TASK.predicted and TASK.label, lists of f32,
    and TASK.raw, the probabilities before they were calibrated, where they were.
    """
    ranked_U = np.isin(users, outcomes.users_U)
    place_U = np.searchsorted(outcomes.users_U, users[ranked_U])
    columns: dict[str, pa.Array] = {"row": pa.array(users), "user_id": user_ids}
    columns["history"] = _spread(ranked_U, outcomes.known_U[place_U], pa.int32())
    columns[_LIST] = _lists(ranked_U, outcomes.items_UK[place_U])
    for name, values in outcomes.per_user.items():
        columns[name] = _spread(ranked_U, values[place_U], pa.float32())
    facts = {}
    for task, found in outcomes.predictions.items():
        order_N = np.argsort(found.users_N, kind="stable")
        counts_U = np.bincount(np.searchsorted(users, found.users_N), minlength=len(users))
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts_U)]).astype(np.int32))
        raw = {} if found.raw_N is None else {_RAW: found.raw_N}
        for name, values in {_PREDICTED: found.predicted_N, _LABEL: found.labels_N, **raw}.items():
            flat = pa.array(values[order_N].astype(np.float32))
            columns[task + name] = pa.ListArray.from_arrays(offsets, flat)
        facts[task + _POSITIVE_FROM] = "" if found.positive_from is None else str(found.positive_from)
        facts[task + _PREDICTS] = found.predicts
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(facts)
    pq.write_table(table, path, compression="zstd", use_dictionary=False)


def users_of(outcomes: Outcomes) -> np.ndarray:
    """Return the rows of all users with a list or a prediction, ascending [U]."""
    return np.unique(np.concatenate([outcomes.users_U, *(p.users_N for p in outcomes.predictions.values())]))


@dataclass(frozen=True)
class Kept:
    """The outcomes of one split as a run keeps them: what a report or a comparison reads."""

    table: pa.Table

    @staticmethod
    def read(run: Path, split: str) -> "Kept":
        """Read the outcomes of a run directory.

        Raises:
            UserError: the run has none for this split.
        """
        path = run / FOLDER / f"{split}.parquet"
        if not path.is_file():
            have = ", ".join(sorted(found.stem for found in path.parent.glob("*.parquet"))) or "none"
            raise UserError(f"{run}: no outcomes of the {split} split (it has: {have}); runs keep them when they end")
        return Kept(pq.read_table(path))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics with a value per user."""
        return [field.name for field in self.table.schema if pa.types.is_floating(field.type)]

    def per_user(self, name: str) -> np.ndarray:
        """Return a metric of every user [U] f64, NaN where it is undefined."""
        return self.table[name].to_numpy().astype(np.float64)

    def lists(self) -> np.ndarray:
        """Return the lists [U, K] i64 as item indices, PAD at the end of shorter ones and for users without."""
        lists = self.table[_LIST].combine_chunks()
        lengths_U = np.nan_to_num(lists.value_lengths().to_numpy(zero_copy_only=False)).astype(np.int64)
        rows = np.repeat(np.arange(len(lists)), lengths_U)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths_U) - lengths_U, lengths_U)
        items_UK = np.zeros((len(lists), int(lengths_U.max(initial=0))), np.int64)
        items_UK[rows, places] = lists.flatten().to_numpy()
        return items_UK

    def predictions(self, rows: np.ndarray) -> dict[str, Predictions]:
        """Return the labelled pairs of each task of some rows of the table [U]; their users are numbered 0 to U - 1.

        Raises:
            UserError: another raysys wrote the outcomes.
        """
        facts = {key.decode(): value.decode() for key, value in (self.table.schema.metadata or {}).items()}
        tasks = [key.removesuffix(_POSITIVE_FROM) for key in facts if key.endswith(_POSITIVE_FROM)]
        if unknown := [task for task in tasks if task + _PREDICTS not in facts]:
            raise UserError(f"outcomes of {unknown[0]}: not as this raysys writes them; train the run again")
        return {task: self._predictions(task, facts, rows) for task in tasks}

    def _predictions(self, task: str, facts: Mapping[str, str], rows: np.ndarray) -> Predictions:
        lists = {
            name: self.table[task + name].take(pa.array(rows)).combine_chunks()
            for name in (_PREDICTED, _LABEL, _RAW)
            if task + name in self.table.column_names
        }
        users_N = np.repeat(np.arange(len(rows)), lists[_LABEL].value_lengths().to_numpy(zero_copy_only=False))
        values = {name: side.flatten().to_numpy().astype(np.float64) for name, side in lists.items()}
        threshold, predicts = facts[task + _POSITIVE_FROM], facts[task + _PREDICTS]
        return Predictions(
            values[_PREDICTED],
            values[_LABEL],
            users_N,
            float(threshold) if threshold else None,
            predicts,  # type: ignore[arg-type]
            values.get(_RAW),
        )


def _spread(chosen_U: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Return values at the chosen rows, null elsewhere and for NaN."""
    spread_U = np.full(len(chosen_U), np.nan)
    spread_U[chosen_U] = values
    return pa.array(spread_U, from_pandas=True).cast(kind, safe=False)


def _lists(chosen_U: np.ndarray, items: np.ndarray) -> pa.Array:
    real = items >= FIRST_ITEM
    lengths_U = np.zeros(len(chosen_U), np.int64)
    lengths_U[chosen_U] = real.sum(axis=1)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths_U)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(items[real].astype(np.int32)), mask=pa.array(~chosen_U))
