"""The work of `raysys ingest` in one process with polars: stands alone in its own environment, prints JSON at the end.

Read parquet, trim ids, drop bad rows and exact repetitions, learn the vocabulary of the training period, encode, mark
by time, gather users in time order, write Arrow. It keeps no rejected rows and no log for later days.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import polars as pl

FIRST_ITEM, UNKNOWN = 2, 1
SECOND_OF = {"wall_seconds": time.perf_counter, "cpu_seconds": time.process_time}


def good_rows(folder: Path, now_ms: int) -> pl.LazyFrame:
    """Return the valid rows, in the order of the files, each repetition once."""
    ids = [pl.col(name).str.strip_chars() for name in ("user_id", "item_id")]
    rating = pl.col("rating")
    valid = (
        pl.all_horizontal((pl.col(name) != "").fill_null(False) for name in ("user_id", "item_id"))
        & pl.col("event").is_not_null()
        & (pl.col("ts") <= now_ms).fill_null(False)
        & (rating.is_null() | rating.is_finite())
    )
    rows = pl.scan_parquet(folder / "*.parquet").with_row_index("position").with_columns(ids).filter(valid)
    return rows.unique(subset=["user_id", "item_id", "event", "ts", "rating"], keep="first", maintain_order=False)


def vocabulary(rows: pl.DataFrame, valid_from: int) -> pl.DataFrame:
    """Return the items of the training period with first time and count, in the order of their index."""
    train = rows.lazy().filter(pl.col("ts") < valid_from)
    items = train.group_by("item_id").agg(pl.col("ts").min().alias("first"), pl.len().alias("count"))
    return items.sort("first", "item_id").with_row_index("item", offset=FIRST_ITEM).collect()


def encode(rows: pl.DataFrame, items: pl.DataFrame, periods: tuple[int, int]) -> pl.LazyFrame:
    """Return one row per user: lists of items, events, times, marks and ratings in time order."""
    names = sorted(rows["event"].unique())
    marks = sum((pl.col("ts") >= begin).cast(pl.Int8) for begin in periods)
    encoded = (
        rows.lazy()
        .join(items.lazy().select("item_id", "item"), on="item_id", how="left")
        .with_columns(
            pl.col("item").fill_null(UNKNOWN).cast(pl.Int32),
            pl.col("event").cast(pl.Enum(names)).to_physical().cast(pl.Int8),
            marks.alias("mark"),
        )
    )
    ordered = encoded.sort("user_id", "ts", "position")
    return ordered.group_by("user_id", maintain_order=True).agg("item", "event", "ts", "mark", "rating")


def peak_memory_mb() -> float:
    """Return the peak resident set; getrusage's would include that of the process that started this one."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Ingest, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--periods", type=int, nargs=2, required=True, help="valid_from and test_from in ms")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    begun = {name: read() for name, read in SECOND_OF.items()}
    rows = good_rows(args.log, int(time.time() * 1000)).collect()
    items = vocabulary(rows, args.periods[0])
    users = encode(rows, items, tuple(args.periods)).collect()
    items.write_ipc(args.output / "vocabulary.arrow")
    users.write_ipc(args.output / "users.arrow")
    spent = {name: read() - begun[name] for name, read in SECOND_OF.items()}
    threads = pl.thread_pool_size()
    counts = {"events": rows.height, "users": users.height, "items": items.height, "threads": threads}
    print(json.dumps({"peer": "polars", **spent, **counts, "peak_memory_mb": peak_memory_mb()}))


if __name__ == "__main__":
    main()
