"""RecBole's full ranking of SASRec, measured: stands alone in the peer's own environment and prints JSON at the end.

Leave-one-out: every user's last item is ranked among all items. For sequential models RecBole does not leave out the
items that a user already had, which is less work. The model is not trained: the time does not depend on its weights.
"""

import argparse
import gzip
import json
import os
import resource
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

NAME = "sequences"


def write_atomic(data: Path, folder: Path) -> None:
    """Write `user item item ...` lines as RecBole's text format; the position stands for the time."""
    (folder / NAME).mkdir()
    with (
        gzip.open(data, "rt") if data.suffix == ".gz" else data.open() as lines,
        (folder / NAME / f"{NAME}.inter").open("w") as file,
    ):
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for line in lines:
            user, *items = line.split()
            file.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def configure(args: argparse.Namespace, folder: Path) -> Config:
    """Return the settings: full ranking, the sizes of the other peers' model."""
    settings = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": args.max_length,
        "hidden_size": args.width,
        "inner_size": args.width,
        "n_layers": args.blocks,
        "n_heads": args.heads,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "eval_batch_size": args.batch_size,
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    return Config(model="SASRec", dataset=NAME, config_dict=settings)


def peak_memory_mb() -> float:
    """Return the peak resident set; getrusage's would include that of the process that started this one."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="`user item item ...` lines, gzipped or plain")
    parser.add_argument("--max-length", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=4096, help="users at a time; the default is RecBole's own")
    return parser.parse_args()


def main() -> None:
    """Evaluate, measure, and print one JSON object."""
    args = parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        write_atomic(args.data, Path(scratch))
        os.chdir(scratch)  # RecBole leaves logs where it runs
        config = configure(args, Path(scratch))
        init_seed(config["seed"], True)
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        trainer = Trainer(config, SASRec(config, train.dataset))
        cpu, wall = time.process_time(), time.perf_counter()
        found = trainer.evaluate(test, load_best_model=False)
        spent = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        users, items = len(test.dataset), dataset.item_num - 1  # RecBole counts its padding as an item
    result = {"users": users, "items": items, **spent, **found, "peak_memory_mb": peak_memory_mb()}
    print(json.dumps({"peer": "RecBole", **result}))


if __name__ == "__main__":
    main()
