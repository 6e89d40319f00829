"""Scores anybody's lists (user_id, rank, item_id) under the protocol that runs are judged by."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.batches import ShardReader, make_queries
from raysys.data.dataset import Dataset
from raysys.data.schema import PAD, Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import Judge, Outcomes, collect, estimate, rank_users
from raysys.evaluation.protocol import PROTOCOL, Estimate, EvalReport, EvaluationConfig, bootstrap, interval
from raysys.evaluation.ranking import PopularityScorer, ranking_metrics
from raysys.tasks.multitask import MultiTask

_PREFIX = "lists."


def evaluate_predictions(
    path: Path, dataset: Dataset, split: Split, run: tuple[MultiTask, EvaluationConfig, int] | None = None
) -> EvalReport:
    """Measure the lists of a parquet file for every user with held-out events; users without a list score 0.

    With a run (its model, evaluation config and history length), the report also holds `difference.METRIC`: lists
    minus run over the same users, with a paired bootstrap interval.

    Raises:
        UserError: the file is not parquet, lacks a column, or has ranks that are not 1, 2, 3, ...
    """
    config = run[1] if run else EvaluationConfig()
    judge = Judge.of(dataset, config, run[2] if run else 1)
    rows = dataset.rows_with_targets(split)
    if not len(rows):
        raise UserError(f"{dataset.path}: no user has {split.name.lower()} events")
    lists_UK, coverage = _read_lists(path, dataset, judge.reader, rows, max(config.k))
    queries = make_queries(judge.reader.rows(rows), split, judge.reader.is_history, 1)
    found = ranking_metrics(lists_UK, queries.relevant_rows_N.numpy(), queries.relevant_items_N.numpy(), config.k)
    has_target = np.isin(np.arange(len(rows)), queries.relevant_rows_N.numpy())
    ranking = {_PREFIX + name: values[has_target] for name, values in found.items()}
    outcomes = Outcomes(rows[has_target], lists_UK[has_target], ranking, {})
    metrics = estimate(outcomes, judge)
    if run is not None:
        metrics |= _differences(outcomes, collect(judge, run[0], split, rows), config)
    baseline = rank_users(judge, PopularityScorer(dataset.catalog.popularity), split, rows, _PREFIX)
    return EvalReport(split.name.lower(), PROTOCOL, metrics, estimate(baseline, judge), (coverage,))


def _differences(lists: Outcomes, model: Outcomes, config: EvaluationConfig) -> dict[str, Estimate]:
    prefix = next(iter(model.ranking)).rpartition(".")[0] + "."
    names = [name.removeprefix(_PREFIX) for name in lists.ranking]
    gaps_MU = np.stack([lists.ranking[_PREFIX + name] - model.ranking[prefix + name] for name in names])
    samples_RM = bootstrap(gaps_MU, config)
    return {
        f"difference.{name}": Estimate(
            float(gaps_MU[at].mean()), *interval(samples_RM[:, at], config.confidence), gaps_MU.shape[1]
        )
        for at, name in enumerate(names)
    }


def _read_lists(
    path: Path, dataset: Dataset, reader: ShardReader, rows: np.ndarray, depth: int
) -> tuple[np.ndarray, str]:
    """Return the lists [U, K] as vocabulary indices, and a note on how many users have one."""
    table = _read(path)
    place = pc.index_in(pc.cast(table["user_id"], pa.string()), reader.user_ids(rows))
    rank = pc.cast(table["rank"], pa.int64()).to_numpy(zero_copy_only=False)
    if len(rank) and rank.min() < 1:
        raise UserError(f"{path}: rank counts from 1, the file has {rank.min()}")
    known = place.is_valid().to_numpy() & (rank <= depth)
    users, ranks = place.fill_null(0).to_numpy()[known], rank[known] - 1
    items = dataset.vocabulary.encode(pc.cast(table["item_id"], pa.string())).to_numpy(zero_copy_only=False)[known]
    if len(np.unique(users * depth + ranks)) != len(users):
        raise UserError(f"{path}: a user has two items of the same rank; ranks are 1, 2, 3, ... within a user")
    lists_UK = np.full((len(rows), depth), PAD, np.int64)
    lists_UK[users, ranks] = items
    listed = len(np.unique(users))
    return lists_UK, f"{listed:,} of {len(rows):,} users with held-out events have a list; the others score 0"


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise UserError(f"--predictions {path}: no such file")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"--predictions {path}: not a parquet file: {error}") from None
    for name in ("user_id", "rank", "item_id"):
        if name not in table.column_names:
            raise UserError(f"--predictions {path}: no column {name!r} (it has: {', '.join(table.column_names)})")
    return table
