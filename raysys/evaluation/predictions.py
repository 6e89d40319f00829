"""Scores anybody's lists (user_id, rank, item_id) under the protocol that runs are judged by."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import PAD, Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import make_report, measured, outcomes_of, rank_users
from raysys.evaluation.intervals import PerUser, estimates
from raysys.evaluation.judge import Judge
from raysys.evaluation.outcomes import Outcomes
from raysys.evaluation.protocol import Estimate, EvalReport, EvaluationConfig
from raysys.evaluation.ranking import ModelScorer
from raysys.evaluation.summary import estimate, estimate_slices, with_beyond
from raysys.tasks.multitask import MultiTask

_LISTS, _RUN = "lists", "run"


def evaluate_predictions(
    path: Path, dataset: Dataset, split: Split, run: tuple[MultiTask, EvaluationConfig, int] | None = None
) -> EvalReport:
    """Measure the lists of a parquet file, or of a directory of them, for every user with held-out events.

    Users without a list score 0.

    With a run (its model, evaluation config and history length), the report also holds `difference.METRIC`: lists
    minus run over the same users, with a paired bootstrap interval.

    Raises:
        UserError: the file is not parquet, lacks a column, knows none of the users, has ranks that are not
            1, 2, 3, ... within a user, or has an item twice in a list.
    """
    config = run[1] if run else EvaluationConfig()
    judge = Judge.of(dataset, config, run[2] if run else 1)
    rows = judge.rows(split)
    if not len(rows):
        raise UserError(f"{dataset.path}: no user has {split.name.lower()} events")
    if run is not None and not run[0].retrieving():
        raise UserError("RUN: none of its tasks retrieves items, so there are no lists to compare with")
    lists_UK, coverage = _read_lists(path, dataset, judge.reader, rows, max(config.k))
    queries = make_queries(judge.reader.rows(rows), split, judge.reader.is_history, 1)
    lists = measured(outcomes_of(judge, queries, rows, {_LISTS: lists_UK})[_LISTS], config, _LISTS)
    scorers = {**({_RUN: ModelScorer(run[0])} if run else {}), **judge.baselines}
    ranked = with_beyond(judge.facts, config, {_LISTS: lists, **rank_users(judge, scorers, split, rows, _LISTS)})
    found = estimate(judge.facts, config, ranked)
    metrics = {**found[_LISTS], **(_differences(ranked[_LISTS], ranked[_RUN], config) if run else {})}
    baselines = {name: found[name] for name in judge.baselines}
    slices = estimate_slices(judge.facts, config, ranked[_LISTS])
    return make_report(judge, split, metrics, baselines, slices, (coverage,))


def _differences(lists: Outcomes, model: Outcomes, config: EvaluationConfig) -> dict[str, Estimate]:
    gaps = {
        name.replace(f"{_LISTS}.", "difference."): PerUser(values_U - model.per_user[name])
        for name, values_U in lists.per_user.items()
    }
    return estimates(gaps, config)


def _read_lists(
    path: Path, dataset: Dataset, reader: ShardReader, rows: np.ndarray, depth: int
) -> tuple[np.ndarray, str]:
    """Return the lists [U, K] as vocabulary indices, and a note on how many users have one."""
    table = _read(path)
    place = pc.index_in(table["user_id"], reader.user_ids(rows))
    known = place.is_valid().to_numpy()
    listed = len(pc.unique(pc.drop_null(place)))
    if not listed:
        raise UserError(f"--predictions {path}: none of its users has held-out events in {dataset.path}")
    users, ranks = place.filter(pa.array(known)).to_numpy(), table["rank"].to_numpy()[known]
    _check_ranks(path, users, ranks)
    items = table["item_id"].filter(pa.array(known))
    _check_items(path, users, items)
    lists_UK = np.full((len(rows), depth), PAD, np.int64)
    shown = ranks <= depth
    lists_UK[users[shown], ranks[shown] - 1] = dataset.vocabulary.encode(items).to_numpy(zero_copy_only=False)[shown]
    return lists_UK, f"{listed:,} of {len(rows):,} users with held-out events have a list; the others score 0"


def _check_ranks(path: Path, users: np.ndarray, ranks: np.ndarray) -> None:
    order = np.lexsort((ranks, users))
    begins = np.r_[True, np.diff(users[order]) > 0]
    first = np.flatnonzero(begins)
    wanted = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order)))) + 1
    if (wrong := ranks[order] != wanted).any():
        found = np.sort(ranks[users == users[order][wrong][0]])[:5].tolist()
        raise UserError(f"--predictions {path}: ranks are 1, 2, 3, ... within a user; one user has {found}")


def _check_items(path: Path, users: np.ndarray, items: pa.ChunkedArray) -> None:
    pairs = pa.table({"user": users, "item": items}).group_by(["user", "item"]).aggregate([([], "count_all")])
    if pairs.num_rows < len(users):
        twice = pairs.filter(pc.greater(pairs["count_all"], 1))["item"][0]
        raise UserError(f"--predictions {path}: a user has item {twice.as_py()!r} twice; every item counts once")


def _read(path: Path) -> pa.Table:
    """Return user_id and item_id as text and rank as i64, without a missing value."""
    if not path.exists():
        raise UserError(f"--predictions {path}: no such file or directory")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"--predictions {path}: not a parquet file: {error}") from None
    columns = {}
    for name, kind in (("user_id", pa.string()), ("rank", pa.int64()), ("item_id", pa.string())):
        if name not in table.column_names:
            raise UserError(f"--predictions {path}: no column {name!r} (it has: {', '.join(table.column_names)})")
        try:
            columns[name] = pc.cast(table[name], kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"--predictions {path}: {name}: cannot be read as {kind}: {error}") from None
        if columns[name].null_count:
            raise UserError(f"--predictions {path}: {name}: {columns[name].null_count:,} rows have no value")
    return pa.table(columns)
