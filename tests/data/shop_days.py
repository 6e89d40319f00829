"""A shop's log in days: a file per day, times that never tie, and every user with as many events on each day."""

from pathlib import Path

import numpy as np
import pandas as pd

FIRST_DAY = 1_600_041_600  # s, 2020-09-14 00:00 UTC
DAY = 86_400
SPLIT = {"kind": "time", "valid_from": "2020-09-17", "test_from": "2020-09-18"}  # after three days, and after four
COLUMNS = {
    "user_id": "uid",
    "item_id": "sku",
    "timestamp": "ts",
    "event": "what",
    "labels": {"rating": "stars"},
    "numbers": {"hour": "hour"},
    "categories": {"device": "device"},
}


def shop_days(num_days: int = 5, num_users: int = 30, per_day: int = 6, seed: int = 0) -> list[pd.DataFrame]:
    """Return the rows of each day, in no order. Later days know more items and another device."""
    generator = np.random.default_rng(seed)
    days = []
    for day in range(num_days):
        number = num_users * per_day
        seconds = generator.choice(DAY, number, replace=False)
        devices = ["phone", "desk", "", *(["watch"] if day > 1 else [])]
        days.append(
            pd.DataFrame(
                {
                    "uid": np.repeat([f"user-{user:03d}" for user in range(num_users)], per_day),
                    "sku": [f"i{item}" for item in generator.integers(0, 15 + 10 * day, number)],
                    "ts": FIRST_DAY + DAY * day + seconds,
                    "what": generator.choice(["view", "click", "buy"], number, p=[0.6, 0.3, 0.1]),
                    "stars": generator.choice(["", "1", "2", "3", "4", "5"], number),
                    "hour": seconds // 3600,
                    "device": generator.choice(devices, number),
                }
            ).sample(frac=1, random_state=seed)
        )
    return days


def write_day(frame: pd.DataFrame, folder: Path, day: int) -> Path:
    """Write a day's file; later days come later in the order of names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"day-{day:02d}.csv"
    frame.to_csv(path, index=False)
    return path


def source_at(folder: Path) -> dict:
    """The source of a folder of days."""
    return {"format": "delimited", "path": str(folder), "columns": COLUMNS}


def timed(times: pd.Series) -> pd.Series:
    """The mark that SPLIT gives an event at a time in s."""
    return (times >= FIRST_DAY + 3 * DAY).astype(int) + (times >= FIRST_DAY + 4 * DAY).astype(int)
