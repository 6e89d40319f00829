"""The lists of some users as one parquet file: what a worker does. Knows nothing of Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raysys.bulk.plan import Plan, part_name
from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.places import Folder
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.evaluation.pair_scores import scored_lists
from raysys.evaluation.ranking import Among, ModelScorer
from raysys.runs import Run

TASK_PREFIX = "scores."
_Columns = dict[str, np.ndarray]  # items, score and the scores of tasks, each [B, K]


def lists_schema(tasks: list[str]) -> pa.Schema:
    """Return the columns of lists: who, place, what, its score, and what each task that scores pairs predicts."""
    fields = [
        pa.field("user_id", pa.string()),
        pa.field("rank", pa.int32()),  # from 1
        pa.field("item_id", pa.string()),
        pa.field("score", pa.float32()),
    ]
    return pa.schema([*fields, *(pa.field(f"{TASK_PREFIX}{task}", pa.float32()) for task in tasks)])


class PartWriter:
    """Makes the lists of users and writes them; loads the model once."""

    def __init__(self, plan: Plan, output: str, run: Path, dataset: Path, items: np.ndarray | None) -> None:
        """Open the run and the dataset; with `items` [N] only those are recommended."""
        self._run, self._plan, self._folder = Run.open(run), plan, Folder.open(output)
        self._split = Split[plan.asked_before.upper()]
        recommender = self._run.network.recommender
        opened = Dataset.open(dataset)
        self._reader = ShardReader(opened, columns=recommender.reads_columns, labels=recommender.reads_labels)
        past = [mark for mark in (Split.TRAIN, Split.VALID, Split.TEST) if mark < self._split]
        self._tokens = [opened.rows[f"{mark.name.lower()}_tokens"].to_numpy() for mark in past]
        self._model = ModelScorer(self._run.network)
        self._among = None if items is None else Among(self._model, torch.from_numpy(items))
        self._schema = lists_schema(list(self._run.network.pair_scorers()))

    def write(self, part: int, rows: np.ndarray) -> None:
        """Write the part of some dataset rows, unless it is there: whoever tries again does nothing twice."""
        name = part_name(part)
        if self._folder.has(name):
            return
        sink = pa.BufferOutputStream()
        pq.write_table(self.lists(rows), sink, compression="zstd")
        self._folder.write(name, sink.getvalue())

    def lists(self, rows: np.ndarray) -> pa.Table:
        """Return the lists of dataset rows [U], users in the order of the rows, each one's items best first."""
        lengths = np.minimum(sum(tokens[rows] for tokens in self._tokens), self._run.config.model.max_length)
        order = np.argsort(lengths, kind="stable")  # users with histories of like length share a batch: little padding
        step = self._run.config.evaluation.batch_size
        found = [self._batch(rows[order[at : at + step]]) for at in range(0, len(rows), step)]
        back = np.argsort(order, kind="stable")
        columns = {name: np.concatenate([one[name] for one in found])[back] for name in found[0]}
        owner, place = np.nonzero(np.isfinite(columns["score"]))
        values = [
            self._reader.user_ids(rows).take(pa.array(owner)),
            pa.array(place.astype(np.int32) + 1),
            self._run.vocabulary.decode(columns.pop("item")[owner, place]),
            *(pa.array(scores[owner, place]) for scores in columns.values()),
        ]
        return pa.table(values, schema=self._schema)

    @torch.inference_mode()
    def _batch(self, rows: np.ndarray) -> _Columns:
        run = self._run
        queries = make_queries(
            self._reader.rows(rows), self._split, self._reader.is_history, run.config.model.max_length
        )
        plan = self._plan
        found, tasks = scored_lists(self._model, queries, plan.k, plan.exclude_seen, run.calibrators, self._among)
        lists = {"item": found.items_BK.numpy(), "score": found.scores_BK.numpy()}
        return lists | {task: scores_BK.numpy() for task, scores_BK in tasks.items()}


class Worker:
    """A PartWriter as Ray Data calls it: a table of parts in, how many users each has out."""

    def __init__(self, plan: str, output: str, run: str, dataset: str, items: bytes | None) -> None:
        torch.set_num_threads(1)
        chosen = None if items is None else np.frombuffer(items, np.int64).copy()
        self._writer = PartWriter(Plan.model_validate_json(plan), output, Path(run), Path(dataset), chosen)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write the parts of a table (part, rows)."""
        users = []
        for task in batch.to_pylist():
            rows = np.frombuffer(task["rows"], np.int64)
            self._writer.write(task["part"], rows)
            users.append(len(rows))
        return pa.table({"users": pa.array(users, pa.int64())})
