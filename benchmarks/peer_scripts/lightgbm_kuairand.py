"""LightGBM on KuaiRand's impressions, one model per label: stands alone in its own environment, JSON on its last line.

Every given feature of users, videos and context, and for users, videos, authors and tags the smoothed rate of the
label: of training rows out of fold, of later rows over the whole training period.
"""

import argparse
import json
import time
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

TRAIN, VALID, TEST = 0, 1, 2
LABELS = ("click", "long_view", "like")
FOLDS, SMOOTHING = 5, 20.0
ENCODED = ("user_id", "video_id", "author_id", "tag")
USERS, VIDEOS = "user_features_pure.csv.gz", "video_features_basic_pure.csv.gz"


def read(data: Path, features: Path) -> tuple[pd.DataFrame, dict[str, np.ndarray], np.ndarray]:
    """Return the features of all rows, their labels and their split."""
    arrays = np.load(data)
    names = {"user_id": "user_id", "video_id": "video_id", "context.duration_ms": "duration_ms", "context.tab": "tab"}
    table = pd.DataFrame({name: arrays[key] for key, name in names.items()})
    table["hour"] = pd.to_datetime(arrays["time_ms"], unit="ms").hour
    table = table.merge(pd.read_csv(features / USERS), how="left", on="user_id")
    table = table.merge(pd.read_csv(features / VIDEOS), how="left", on="video_id")
    for name in table.columns:
        if not pd.api.types.is_numeric_dtype(table[name]) and name != "tag":
            table[name] = table[name].astype("category")
    table["tab"] = table["tab"].astype("category")
    table["tag"] = table["tag"].fillna("").factorize()[0]
    labels = {key.removeprefix("label."): arrays[key] for key in arrays.files if key.startswith("label.")}
    return table, labels, arrays["split"]


def rates(keys: pd.Series, label: np.ndarray, rows: np.ndarray, smoothing: float) -> np.ndarray:
    """Return for all rows the label's smoothed rate among `rows` with the same key."""
    mean = label[rows].mean()
    known = pd.DataFrame({"key": keys[rows], "label": label[rows]}).groupby("key")["label"].agg(["sum", "count"])
    smoothed = (known["sum"] + smoothing * mean) / (known["count"] + smoothing)
    return keys.map(smoothed).fillna(mean).to_numpy()


def encoded(table: pd.DataFrame, label: np.ndarray, train: np.ndarray) -> pd.DataFrame:
    """Add the rates; raw ids of users, videos and authors are left out."""
    fold = np.random.default_rng(0).integers(FOLDS, size=len(table))
    out = table.drop(columns=["user_id", "video_id", "author_id", "music_id"])
    for name in ENCODED:
        keys = table[name]
        column = rates(keys, label, train, SMOOTHING)
        for at in range(FOLDS):
            held = train & (fold == at)
            column[held] = rates(keys, label, train & (fold != at), SMOOTHING)[held]
        out[f"rate.{name}"] = column
        counts = keys[train].value_counts()
        out[f"count.{name}"] = keys.map(counts).fillna(0).to_numpy()
    return out


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="arrays of impressions")
    parser.add_argument("--features", type=Path, required=True, help="folder of KuaiRand's feature files")
    parser.add_argument("--predictions", type=Path, required=True, help="file to write")
    return parser.parse_args()


def main() -> None:
    """Train a model per label and write what each predicts of validation and test."""
    args = parse()
    table, labels, split = read(args.data, args.features)
    train = split == TRAIN
    found, seconds = {}, time.process_time()
    for name in LABELS:
        columns = encoded(table, labels[name], train)
        model = lightgbm.LGBMClassifier(
            n_estimators=300,
            num_leaves=63,
            learning_rate=0.05,
            n_jobs=1,
            random_state=0,
            verbose=-1,
        )
        model.fit(columns[train], labels[name][train])
        for part, number in (("valid", VALID), ("test", TEST)):
            found[f"{part}.{name}.1"] = model.predict_proba(columns[split == number])[:, 1]
    np.savez(args.predictions, **found)
    seconds = time.process_time() - seconds
    print(json.dumps({"peer": "LightGBM", "features": columns.shape[1], "cpu_seconds": seconds}))


if __name__ == "__main__":
    main()
