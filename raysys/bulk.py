"""Recommends for many users at once through Ray Data, with the same code as evaluation and serving."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys import cluster
from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.ranking import ModelScorer, recommend
from raysys.runs import Run

RECOMMENDATIONS = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("rank", pa.int32()),  # from 1
        pa.field("item_id", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
_ROWS_PER_TASK = 4096


def recommend_users(run: Run, users: str, output: Path, k: int, dataset_path: str | None = None) -> int:
    """Write the k best items of each user to a parquet file and return how many users that was.

    `users` is `test` (users with test events, asked just before those), `all` (asked from the end of their history),
    or a file with user ids (one a line, or a parquet file with a user_id column).

    Raises:
        UserError: the dataset is not the run's, or the file of users cannot be read or names nobody.
    """
    if k < 1:
        raise UserError(f"--k {k}: ask for at least one item")
    dataset = Dataset.open(dataset_path or run.record.dataset)
    if dataset.manifest.fingerprint != run.record.dataset_fingerprint:
        raise UserError(f"--dataset {dataset.path}: not the dataset that run {run.record.run_id} was trained on")
    rows, split = _choose(users, dataset)
    parts = [rows[at : at + _ROWS_PER_TASK] for at in range(0, len(rows), _ROWS_PER_TASK)]
    partial = output.with_name(f".{output.name}.partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with cluster.connected():
        import ray.data

        cluster.quiet_ray()
        tasks = ray.data.from_items([{"rows": part} for part in parts], override_num_blocks=len(parts))
        workers = min(2, len(parts))
        results = tasks.map_batches(
            _Recommender,
            fn_constructor_args=(str(run.path), str(dataset.path), int(split), k),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
        with pq.ParquetWriter(partial, RECOMMENDATIONS) as writer:
            for block in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                writer.write_table(block)
    partial.replace(output)
    return len(rows)


class _Recommender:
    """Task: dataset rows -> recommendations. The model loads once per worker."""

    def __init__(self, run: str, dataset: str, split: int, k: int) -> None:
        import torch

        torch.set_num_threads(1)
        self.run, self.split, self.k = Run.open(run), Split(split), k
        self.reader = ShardReader(Dataset.open(dataset), columns=True)
        self.scorer = ModelScorer(self.run.network)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return RECOMMENDATIONS for the rows of one task, 256 users at a time."""
        rows = np.concatenate([np.asarray(part, np.int64) for part in batch["rows"].to_pylist()])
        step = self.run.config.evaluation.batch_size
        return pa.concat_tables([self._recommend(rows[at : at + step]) for at in range(0, len(rows), step)])

    def _recommend(self, rows: np.ndarray) -> pa.Table:
        config = self.run.config
        queries = make_queries(self.reader.rows(rows), self.split, self.reader.is_history, config.model.max_length)
        found = recommend(self.scorer, queries, self.k, config.evaluation.exclude_seen)
        items, scores = found.items_BK.numpy(), found.scores_BK.numpy()
        owner, place = np.nonzero(np.isfinite(scores))
        return pa.table(
            {
                "user_id": self.reader.user_ids(rows).take(pa.array(owner)),
                "rank": pa.array(place.astype(np.int32) + 1),
                "item_id": self.run.vocabulary.decode(items[owner, place]),
                "score": pa.array(scores[owner, place]),
            },
            schema=RECOMMENDATIONS,
        )


def _choose(users: str, dataset: Dataset) -> tuple[np.ndarray, Split]:
    if users == "test":
        rows, split = dataset.rows_with_targets(Split.TEST), Split.TEST
    else:
        rows, split = np.arange(dataset.manifest.num_users), Split.NONE
    if users in ("test", "all"):
        if not len(rows):
            raise UserError(f"--users {users}: {dataset.path} has no such users")
        return rows, split
    wanted = _read_users(Path(users))
    known = pc.is_in(ShardReader(dataset).user_ids(rows), wanted).to_numpy(zero_copy_only=False)
    if not known.any():
        raise UserError(f"--users {users}: none of its {len(wanted):,} ids is a user of {dataset.path}")
    return rows[known], split


def _read_users(path: Path) -> pa.Array:
    if not path.is_file():
        raise UserError(f"--users {path}: test, all, or a file of user ids; there is no such file")
    if path.suffix != ".parquet":
        return pa.array([line.strip() for line in path.read_text().splitlines() if line.strip()], pa.string())
    try:
        column = pq.read_table(path, columns=["user_id"])["user_id"]
    except (pa.ArrowInvalid, KeyError) as error:
        raise UserError(f"--users {path}: not a parquet file with a user_id column: {error}") from None
    return pc.cast(column, pa.string()).combine_chunks()
