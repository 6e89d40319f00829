"""Items that training never saw, ranked among all others, by their texts: of a run that knows ids too, and of one that
does not.

One item in ten has no event in training, chosen by a hash of its id; its reviews stay where they are what is asked for.
Every run then ranks the whole catalogue, these items too, for the last review of each user (test) and the one before
(valid).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peers

EXAMPLE = Path(__file__).parents[1] / "examples" / "amazon-beauty"
HELD_OUT, LAST = 10, 2  # one item in so many; reviews that are asked for
TEXT = "text alone"
Rows = list[dict[str, Any]]
Figures = dict[str, float]


def main() -> None:
    options = _options()
    about = peers.machine()
    with tempfile.TemporaryDirectory() as folder:
        log = Log.read(Path(os.environ.get("RAYSYS_DATA", "data")) / "amazon-2014" / "Beauty.txt.gz")
        trial = Trial(log, Path(folder))
        found = {name: trial.figures(items, options) for name, items in variants().items()}
    rows = _rows(found)
    peers.table(rows)
    if options.output:
        settings = {name: getattr(options, name) for name in ("epochs", "user_share", "learning_rate", "width", "seed")}
        more = {"new_items": len(trial.new_ids), "targets": trial.counts, "settings": settings}
        peers.write(options.output, rows, about, more)


def variants() -> dict[str, dict[str, Any]]:
    """Return what is compared, by name: the item encoders of a run."""
    from raysys.configfile import read_yaml

    text = read_yaml(EXAMPLE / "pretrain-text.yaml")["model"]["items"]["text"]
    return {"id and text": {"id": {}, "text": text}, TEXT: {"text": text}}


class Log:
    """Users with their items in order, some of them without the items that training may not see."""

    def __init__(self, whole: dict[str, list[str]]) -> None:
        self.whole = whole
        self.kept = {
            user: own
            for user, items in whole.items()
            if len(own := [item for item in items[:-LAST] if not _is_held_out(item)] + items[-LAST:]) > LAST
        }

    @staticmethod
    def read(path: Path) -> Log:
        """Read a line for each user: his name, then items."""
        with gzip.open(path, "rt") as file:
            return Log({user: items for user, *items in map(str.split, file)})

    def ingested(self, users: Mapping[str, list[str]], folder: Path, min_events: int) -> Any:
        """Make a dataset of users; those with fewer events than that are training alone."""
        from raysys.configfile import build, read_yaml
        from raysys.data.config import IngestConfig
        from raysys.data.ingest import ingest
        from raysys.data.line import in_process

        folder.mkdir()
        path = folder / "log.txt"
        path.write_text("".join(" ".join([user, *items]) + "\n" for user, items in users.items()))
        node = read_yaml(EXAMPLE / "ingest.yaml")
        node |= {
            "root": str(folder),
            "sources": [{**node["sources"][0], "path": str(path)}],
            "split": {"kind": "leave_one_out", "min_events": min_events},
        }
        return ingest(build(IngestConfig, node, "cold_items"), folder / "dataset", each=in_process)


class Trial:
    """A dataset without events of some items in training, and what was said of these items."""

    def __init__(self, log: Log, folder: Path) -> None:
        import pyarrow.compute as pc

        self._log, self._folder, self.counts = log, folder, dict[str, int]()
        self._dataset = log.ingested(log.kept, folder / "kept", min_events=LAST + 1)
        everything = log.ingested(log.whole, folder / "whole", min_events=1 << 30).catalog.table
        self._rows = everything.filter(pc.invert(pc.is_in(everything["item_id"], self._dataset.vocabulary.item_ids)))
        self.new_ids: list[str] = self._rows["item_id"].to_pylist()
        assert not any(map(_is_held_out, self._dataset.vocabulary.item_ids.to_pylist()))

    def figures(self, items: Mapping[str, Any], options: argparse.Namespace) -> Figures:
        """Train with some item encoders; return recall and NDCG by split and kind of target."""
        import torch

        from raysys.data.schema import Split

        run = self._trained(items, options)
        tower = run.network.recommender.items
        with torch.inference_mode():
            table_ID = torch.cat([tower.table(), tower.of_new(self._rows)])
            splits = {"valid": Split.VALID, "test": Split.TEST}
            return {
                f"{name}, {key}": value
                for name, split in splits.items()
                for key, value in self._of_split(run, split, name, table_ID).items()
            }

    def _trained(self, items: Mapping[str, Any], options: argparse.Namespace) -> Any:
        import raysys
        from raysys.configfile import read_yaml

        node = read_yaml(EXAMPLE / "pretrain-text.yaml")
        node |= {
            "root": str(self._folder),
            "dataset": str(self._dataset.path),
            "model": {**node["model"], "width": options.width, "items": items},
            "optimizer": {"learning_rate": options.learning_rate},
            "training": {
                **node["training"],
                "epochs": options.epochs,
                "user_share": options.user_share,
                "evaluate_every": options.epochs,
                "batch_size": 64,
                "threads": 1,
            },
            "evaluation": {"k": [10], "resamples": 20, "max_users": 1000, "baselines": {}},
            "seed": options.seed,
        }
        return raysys.train(node)

    def _of_split(self, run: Any, split: Any, name: str, table_ID: Any) -> Figures:
        ranks_N, ranks_among_known_N, new_N = self._ranks(run, split, table_ID)
        known = ~new_N
        self.counts |= {f"{name}, new": int(new_N.sum()), f"{name}, known": int(known.sum())}
        return {
            "new items: recall@10": float((ranks_N[new_N] < 10).mean()),
            "new items: ndcg@10": _ndcg(ranks_N[new_N]),
            "known items: ndcg@10": _ndcg(ranks_N[known]),
            "known items, no new ones among them: ndcg@10": _ndcg(ranks_among_known_N[known]),
        }

    def _ranks(self, run: Any, split: Any, table_ID: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how many items score above each user's target, of all and of known ones, and whether it is new."""
        import torch

        from raysys.data.batches import make_queries
        from raysys.data.reader import ShardReader
        from raysys.data.schema import FIRST_ITEM
        from raysys.evaluation.ranking import query_vectors

        reader, network, num_known = ShardReader(self._dataset), run.network, self._dataset.manifest.num_items
        places = {item: num_known + at for at, item in enumerate(self.new_ids)}
        places |= {item: at for at, item in enumerate(self._dataset.vocabulary.item_ids.to_pylist())}
        rows, ranks = self._dataset.rows_with_targets(split), []
        for part in np.array_split(rows, len(rows) // 256 + 1):
            queries = make_queries(reader.rows(part), split, reader.is_history, run.config.model.max_length)
            asked_BD = query_vectors(network, network.retriever(), queries.history, queries.anchor_B)
            scores_BI = asked_BD @ table_ID.T
            had = [self._log.kept[user] for user in reader.user_ids(part).to_pylist()]
            target = -1 if split.name == "TEST" else -2
            target_B = torch.tensor([places[items[target]] for items in had])
            for row, items in enumerate(had):
                scores_BI[row, [places[item] for item in items[:target] if places[item] != target_B[row]]] = -torch.inf
            above_BI = scores_BI > scores_BI.gather(1, target_B.unsqueeze(1))
            ranks.append(torch.stack([above_BI.sum(1), above_BI[:, :num_known].sum(1), target_B >= num_known]))
        assert FIRST_ITEM + num_known == network.recommender.items.vocabulary_size
        found = torch.cat(ranks, dim=1).numpy()
        return found[0], found[1], found[2].astype(bool)


def _is_held_out(item: str) -> bool:
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest()) % HELD_OUT == 0


def _ndcg(ranks_N: np.ndarray) -> float:
    return float(np.where(ranks_N < 10, 1 / np.log2(ranks_N + 2), 0).mean())


def _rows(found: Mapping[str, Figures]) -> Rows:
    """Return every figure beside that of a run that knows texts alone."""
    (name, ours), (_, theirs) = found.items()
    return [peers.row(f"{name}, {key}", ours[key], theirs[key], TEXT, key.rpartition(": ")[2]) for key in ours]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 epochs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--user-share", type=float, default=1.0, help="of the users that training sees")
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    if options.quick:
        options.epochs = 2
    return options


if __name__ == "__main__":
    main()
