"""RecBole's data preparation, measured: stands alone in the peer's own environment and prints JSON on its last line.

It reads an atomic file, maps ids, orders by time, and makes one training example per prefix, two items held out.
"""

import argparse
import json
import resource
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
SECOND_OF = {"wall_seconds": time.perf_counter, "cpu_seconds": time.process_time}


def configure(log: Path, max_length: int, scratch: str) -> Config:
    """Return the settings of a sequential model trained with full softmax."""
    settings = {
        "data_path": str(log.parent.parent),  # RecBole looks for DATA_PATH/NAME/NAME.inter
        "checkpoint_dir": scratch,
        "load_col": {"inter": COLUMNS},
        "MAX_ITEM_LIST_LENGTH": max_length,
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    return Config(model="SASRec", dataset=log.stem, config_dict=settings)


def peak_memory_mb() -> float:
    """Return the peak resident set; getrusage's would include that of the process that started this one."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prepare the data, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True, help="FOLDER/NAME/NAME.inter")
    parser.add_argument("--max-length", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = configure(args.log, args.max_length, scratch)
        init_seed(config["seed"], True)
        begun = {name: read() for name, read in SECOND_OF.items()}
        dataset = create_dataset(config)
        rows = len(dataset)
        train, _, _ = data_preparation(config, dataset)
        spent = {name: read() - begun[name] for name, read in SECOND_OF.items()}
    rate = rows / spent["cpu_seconds"]
    result = {
        "rows": rows,
        "examples": len(train.dataset),
        "rows_per_cpu_second": rate,
        "peak_memory_mb": peak_memory_mb(),
    }
    print(json.dumps({"peer": "RecBole", **spent, **result}))


if __name__ == "__main__":
    main()
