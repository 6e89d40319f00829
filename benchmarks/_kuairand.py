"""KuaiRand for multitask.py and weighting.py: one table of impressions for all peers, our models, and one judge.

The rows, their split, their labels and the indices of their features are those of our dataset. A peer gets them as a
file of arrays and gives back predictions of validation and test rows, which are judged here as ours are.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "kuairand"
LABELS = ("click", "long_view", "like")
BATCH = 1024
"""Impressions of a step."""
_INIT_STD, _PIECES = 1e-4, 8
"""Of ours: how vectors of users and videos begin, as in the peers, and steps over which a user's impressions spread."""
_USERS_AT_ONCE = 4096
Metrics = dict[str, float]


def ingested(folder: Path, histories: bool) -> Path:
    """Ingest the example's log below a folder; without histories, its impressions alone."""
    from raysys.configfile import build, read_yaml
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest
    from raysys.data.line import in_process

    node = read_yaml(EXAMPLE / "ingest.yaml")
    if not histories:
        node |= {"sources": [one for one in node["sources"] if one["event"] == "impression"], "history": ["impression"]}
    name = "kuairand" if histories else "impressions"
    path: Path = ingest(build(IngestConfig, node, "benchmark"), folder / name, each=in_process).path
    return path


def exported(path: Path, file: Path) -> Path:
    """Write every impression as arrays: `split`, `user` (row of the dataset), ids, labels, numbers and `field.NAME`.

    A field is an index below `size.NAME`; numbers are indices of the buckets that our models see. A long view without
    a click (196 of 198,895 rows) counts as no, for everyone, because a product of chances cannot say otherwise.
    """
    from raysys.data.dataset import Dataset
    from raysys.data.reader import ShardReader

    dataset = Dataset.open(path)
    reader, parts = ShardReader(dataset, columns=True), []
    impression = dataset.manifest.event_names.index("impression")
    for first in range(0, len(dataset.rows), _USERS_AT_ONCE):
        rows = np.arange(first, min(first + _USERS_AT_ONCE, len(dataset.rows)))
        parts.append(_part(reader, rows, impression))
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table["label.long_view"] *= table["label.click"]
    np.savez(file, video_id=_videos(dataset, table), **table, **_fields(dataset, table))
    return file


def _part(reader: Any, rows: np.ndarray, impression: int) -> dict[str, np.ndarray]:
    """Return the impressions of some users, features of users beside each."""
    found = reader.rows(rows)
    at, owner = np.flatnonzero(found.events == impression), np.repeat(np.arange(len(rows)), np.diff(found.offsets))
    owner = owner[at]
    ids = np.array(reader.user_ids(rows).to_pylist(), np.int64)
    known = {"split": found.marks[at], "user": rows[owner], "user_id": ids[owner], "time_ms": found.times[at]}
    labels = {f"label.{name}": found.labels[name][at] for name in LABELS}
    context = {f"context.{name}": values[at] for name, values in found.context.numbers.items()}
    context |= {f"context.{name}": values[at] for name, values in found.context.categories.items()}
    users = {**found.features.numbers, **found.features.categories}
    features = {f"users.{name}": values[owner] for name, values in users.items()}
    return {**known, "item": found.items[at].astype(np.int64), **labels, **context, **features}


def _fields(dataset: Any, table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return all features as indices, with their sizes."""
    import torch

    from raysys.data.quantiles import training_quantiles
    from raysys.data.schema import FIRST_ITEM
    from raysys.model.fields import NUM_QUANTILES
    from raysys.model.pairs import ItemColumns

    manifest, quantiles = dataset.manifest, training_quantiles(dataset, NUM_QUANTILES)
    columns = ItemColumns(manifest.item_columns, manifest.num_items + FIRST_ITEM)
    columns.observe(dataset.catalog)
    items = columns(torch.from_numpy(table["item"]))
    trained = dataset.rows["train_events"].to_numpy() > 0
    user = np.where(trained[table["user"]], table["user"] + 1, 0)  # whom training did not meet is nobody
    found = {"user": (user, manifest.num_users + 1), "item": (table["item"], manifest.num_items + FIRST_ITEM)}
    numbers = {f"items.{name}": values.numpy() for name, values in items.numbers.items()}
    values = {**table, **numbers, **{f"items.{name}": values.numpy() for name, values in items.categories.items()}}
    context = {"numbers": manifest.numbers, "categories": manifest.categories}
    sides = {"users": vars(manifest.user_columns), "items": vars(manifest.item_columns), "context": context}
    for side, schema in sides.items():
        for name in schema["numbers"]:
            edges, column = getattr(quantiles, side)[name], values[f"{side}.{name}"]
            buckets = np.where(np.isnan(column), 0, np.searchsorted(edges, column) + 1)
            found[f"{side}.{name}"] = buckets, NUM_QUANTILES + 2
        found |= {f"{side}.{name}": (values[f"{side}.{name}"], size) for name, size in schema["categories"].items()}
    fields = {f"field.{name}": indices.astype(np.int32) for name, (indices, _) in found.items()}
    sizes = {f"size.{name}": np.array(size) for name, (_, size) in found.items()}
    return {**fields, **sizes}


def _videos(dataset: Any, table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the ids of all videos from the log, those too that training never saw."""
    import pyarrow.parquet as pq

    from raysys.data.schema import FIRST_ITEM

    (path,) = [one["path"] for one in dataset.manifest.config["sources"] if one["event"] == "impression"]
    log = {name: pq.read_table(path)[name].to_numpy() for name in ("user_id", "time_ms", "video_id")}
    here, there = (np.lexsort((rows["time_ms"], rows["user_id"])) for rows in (table, log))
    videos = np.empty(len(here), np.int64)
    videos[here] = log["video_id"][there]
    known = table["item"] >= FIRST_ITEM
    ids = dataset.vocabulary.decode(table["item"][known]).to_pylist()
    assert (videos[known] == np.array(ids, np.int64)).all(), "the log and the dataset are in different orders"
    return videos


def judged(data: Path, predictions: Path) -> Metrics:
    """Return AUC and GAUC of a peer on the test rows, of each label after the epoch whose validation AUC is best."""
    table, predicted = np.load(data), np.load(predictions)
    found: Metrics = {}
    for label in LABELS:
        epochs = [name.rpartition(".")[2] for name in predicted.files if name.startswith(f"valid.{label}.")]
        if epochs:
            best = max(epochs, key=lambda epoch: _measured(table, predicted, "valid", label, epoch)["auc"])
            metrics = _measured(table, predicted, "test", label, best)
            found |= {f"{label}.{name}": metrics[name] for name in ("auc", "gauc")}
    return found


def _measured(table: Any, predicted: Any, split: str, label: str, epoch: str) -> Metrics:
    from raysys.data.schema import Split
    from raysys.evaluation.pointwise import Predictions, cheap_metrics

    rows = table["split"] == Split[split.upper()]
    scores = predicted[f"{split}.{label}.{epoch}"].astype(np.float64)
    return cheap_metrics(Predictions(scores, table[f"label.{label}"][rows], table["user"][rows], 1.0, "probability"))


def point_wise(dataset: Path, sharing: Mapping[str, Any], esmm: bool, epochs: int, users: int | None) -> dict[str, Any]:
    """Return the run config of what the torch peers train: no sequence, but a vector for each user.

    Args:
        dataset: impressions alone.
        sharing: node of `model.sharing`.
        esmm: whether a long view needs a click.
        epochs: passes over the training rows.
        users: whom to validate with after each epoch; None for all.
    """
    import pyarrow.compute as pc

    from raysys.data.dataset import Dataset

    counts = Dataset.open(dataset).rows["train_events"]
    pieces = pc.sum(pc.min_element_wise(counts, _PIECES)).as_py()
    long_view = {"kind": "conversion", "given": "click"} if esmm else {"kind": "binary"}
    return {
        "project": "benchmark",
        "dataset": str(dataset),
        "model": {
            "width": 8,
            "max_length": 200,
            "dropout": 0.0,
            "items": {"id": {"init_std": _INIT_STD}},
            # an impression says nothing in favour of a video: a new user stays the average one
            "backbone": {"kind": "mf", "init_std": _INIT_STD, "noise": 1e6},
            "fields": {"width": 8},
            "sharing": {"hidden": 64, "dropout": 0.1, **sharing},
        },
        "tasks": {"click": {"hidden": 32}, "long_view": {**long_view, "label": "long_view", "hidden": 32}},
        "optimizer": {
            "kind": "adam",
            "learning_rate": 0.0015,
            "warmup_steps": 0,
            "schedule": "cosine",
            "clip_norm": None,
        },
        "training": {
            "epochs": epochs,
            "evaluate_every": 1 if users is None else epochs,
            "batch_size": round(BATCH * pieces / pc.sum(counts).as_py()),
            "pieces": _PIECES,
            "batch_by": "tokens",
            "threads": 1,
            "random_windows": False,
            "early_stopping": {"metric": "click.auc"},
        },
        "evaluation": {"max_users": users},
    }


def timed(node: Mapping[str, Any]) -> Metrics:
    """Train in this process with the library's own loop; return impressions per CPU-second after the first epoch."""
    loop, dataset = _loop(node)
    ends: list[float] = []
    loop.on_epoch = lambda _: ends.append(time.process_time())
    loop.run()
    samples = (len(ends) - 1) * dataset.manifest.events_by_name["impression"][0]
    return {"cpu_seconds": ends[-1] - ends[0], "samples_per_cpu_second": samples / (ends[-1] - ends[0])}


def tested(node: Mapping[str, Any]) -> Metrics:
    """Train as a user would, validation included, and return the metrics of the test split."""
    from raysys.data.schema import Split
    from raysys.evaluation.evaluate import collect, summarise
    from raysys.evaluation.judge import Judge

    loop, dataset = _loop(node)
    cpu = time.process_time()
    result = loop.run()
    found = {"cpu_seconds": time.process_time() - cpu, "best_epoch": result.position.best_epoch}
    judge = Judge.of(dataset, loop.config.evaluation, loop.config.model.max_length)
    return found | summarise(collect(judge, result.network, Split.TEST))


def _loop(node: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what trains by a run config, with one thread, and its dataset."""
    import torch

    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.data.dataset import Dataset
    from raysys.training.loop import TrainingLoop
    from raysys.training.start import build_network

    torch.set_num_threads(1)
    config = build(RunConfig, dict(node), "benchmark")
    dataset = Dataset.open(str(config.dataset))
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return TrainingLoop(config, dataset, build_network(config, dataset), folder, show=False), dataset
