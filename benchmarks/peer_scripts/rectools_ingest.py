"""RecTools' data preparation for SASRec, measured: stands alone in its own environment, prints JSON on its last line.

Read parquet, leave out rows without ids, with a time to come or no rating, and repetitions; `Dataset.construct`; then
what SASRec does with it before its first batch. Nothing is written.
"""

import argparse
import json
import logging
import resource
import time
import warnings
from pathlib import Path

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")

import pandas as pd  # noqa: E402
from rectools import Columns  # noqa: E402
from rectools.dataset import Dataset  # noqa: E402
from rectools.models import SASRecModel  # noqa: E402

NAMES = {"user_id": Columns.User, "item_id": Columns.Item, "rating": Columns.Weight, "ts": Columns.Datetime}


class Stopwatch:
    """Notes the wall and CPU seconds of one phase after another."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._last = self._now()

    @staticmethod
    def _now() -> dict[str, float]:
        return {"wall_seconds": time.perf_counter(), "cpu_seconds": time.process_time()}

    def lap(self, phase: str) -> None:
        """End a phase."""
        now = self._now()
        self.phases[phase] = {name: now[name] - self._last[name] for name in now}
        self._last = now

    def total(self, name: str) -> float:
        """Return the seconds of all phases."""
        return sum(phase[name] for phase in self.phases.values())


def read(folder: Path, now_ms: int) -> pd.DataFrame:
    """Return the good rows as RecTools wants them."""
    frame = pd.read_parquet(folder, columns=["user_id", "item_id", "event", "ts", "rating"])
    frame = frame[frame["user_id"].notna() & (frame["item_id"] != " ") & (frame["ts"] <= now_ms)].dropna()
    frame = frame.drop_duplicates().drop(columns="event").rename(columns=NAMES)
    frame[Columns.Datetime] = pd.to_datetime(frame[Columns.Datetime], unit="ms")
    return frame


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
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=50)
    args = parser.parse_args()
    model = SASRecModel(session_max_len=args.max_length)
    model._init_data_preparator()
    watch = Stopwatch()
    frame = read(args.log, int(time.time() * 1000))
    watch.lap("read")
    dataset = Dataset.construct(frame)
    watch.lap("construct")
    model.data_preparator.process_dataset_train(dataset)
    watch.lap("prepare")
    cpu = watch.total("cpu_seconds")
    from_memory = cpu - watch.phases["read"]["cpu_seconds"]
    rates = {"rows_per_cpu_second": len(frame) / cpu, "rows_per_cpu_second_from_memory": len(frame) / from_memory}
    spent = {"wall_seconds": watch.total("wall_seconds"), "cpu_seconds": cpu, "phases": watch.phases}
    print(json.dumps({"peer": "RecTools", "rows": len(frame), **rates, **spent, "peak_memory_mb": peak_memory_mb()}))


if __name__ == "__main__":
    main()
