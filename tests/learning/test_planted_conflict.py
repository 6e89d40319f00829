"""Two tasks planted to contest the one number that a user's state can hold, or not to: what weightings make of them.

Of every user two things are to be learned: what both labels want alike, and what they want of opposite sign. Seconds
are counted in tens and stars in ones, so the squared errors lie a factor of a hundred apart. Where the state is one
number, the sum of both losses spends it on the seconds. No weighting can give both tasks all that there is; one that
balances can give the worse one far more than that.
"""

from math import hypot, sqrt
from statistics import mean, stdev

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.training.loop import TrainingLoop
from raysys.training.start import build_network

pytest.importorskip("torchjd")

SEEDS = range(3)
USERS, EVENTS, ITEMS, HOUR = 300, 20, 12, 3_600_000
OPPOSED = 0.7  # of what the labels want: along it they oppose each other, this times as strongly as they agree
DRY = {"dropout": 0.0}
FIXED = {"kind": "fixed"}


def _log(path, seed, scale, contested):
    """Write a log; returns the variance of each label."""
    generator = np.random.default_rng(seed)
    alike, apart = generator.uniform(-1, 1, (2, USERS))
    wanted = (alike + OPPOSED * apart, alike - OPPOSED * apart) if contested else (alike, apart)
    users = np.repeat(np.arange(USERS), EVENTS)
    labels = {
        "seconds": scale * (wanted[0][users] + generator.normal(0, 0.2, len(users))),
        "stars": wanted[1][users] + generator.normal(0, 0.2, len(users)),
    }
    columns = {
        "user_id": [f"u{user}" for user in users],
        "item_id": [f"i{item}" for item in generator.integers(ITEMS, size=len(users))],
        "timestamp": 1_700_000_000_000 + np.arange(len(users)) % EVENTS * HOUR,
    }
    pq.write_table(pa.table({**columns, **{name: values.astype(np.float32) for name, values in labels.items()}}), path)
    return {name: values.var() for name, values in labels.items()}


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Train on planted logs; gives, seed by seed, the share of each label's variance that the model explains of
    events it has not seen."""
    known = {}

    def dataset(seed, scale, contested):
        if (key := (seed, scale, contested)) not in known:
            folder = tmp_path_factory.mktemp("planted")
            variances = _log(folder / "log.parquet", *key)
            columns = {name: name for name in ("user_id", "item_id", "timestamp")}
            columns["labels"] = {name: name for name in variances}
            source = {"format": "parquet", "path": str(folder / "log.parquet"), "columns": columns}
            node = {"project": "planted", **source, "split": {"kind": "ratio", "valid_share": 0.2, "test_share": 0.1}}
            known[key] = ingest(build(IngestConfig, node, "log"), folder / "dataset", each=in_process), variances
        return known[key]

    def train(weighting, seed, scale, contested, width, pieces):
        data, variances = dataset(seed, scale, contested)
        node = {
            "project": "planted",
            "dataset": str(data.path),
            "seed": seed,
            "model": {"width": width, "dropout": 0.0, "backbone": {"kind": "mf"}, "sharing": {"hidden": 8, **DRY}},
            "tasks": {name: {"kind": "rating", "label": name, "hidden": 8, **DRY} for name in variances},
            "weighting": weighting,
            "optimizer": {"learning_rate": 0.03, "warmup_steps": 5},
            "training": {
                "epochs": 25,
                "batch_size": 32 * pieces,
                "pieces": pieces,
                "threads": 1,
                "evaluate_every": 25,
            },
            "evaluation": {"resamples": 10},
        }
        config = build(RunConfig, node, "planted")
        folder = tmp_path_factory.mktemp("run")
        metrics = TrainingLoop(config, data, build_network(config, data), folder, show=False).run().metrics
        return {name: 1 - metrics[f"{name}.rmse"] ** 2 / variance for name, variance in variances.items()}

    def of_all_seeds(weighting, **log):
        key = (*weighting.values(), *log.values())
        if key not in known:
            known[key] = [train(weighting, seed, **log) for seed in SEEDS]
        return known[key]

    return of_all_seeds


def _told(name, shares):
    print(f"{name}: {mean(shares):.3f}, spread {stdev(shares):.3f}", [round(float(share), 3) for share in shares])


def _gramian(method):
    return {"kind": "gramian", "method": method}


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["nash_mtl", "aligned_mtl"])  # on two tasks imtl_g is nash_mtl
def test_the_worse_of_two_contesting_tasks_gains_by_balance(explained, method):
    log = {"scale": 10.0, "contested": True, "width": 1, "pieces": 1}
    fixed, balanced = (
        [min(run.values()) for run in explained(weighting, **log)] for weighting in (FIXED, _gramian(method))
    )
    _told("the worse task under fixed", fixed)
    _told(f"the worse task under {method}", balanced)
    assert max(fixed) < 0.5, "the seconds must win for this test to say anything"
    assert min(balanced) > max(fixed) + 0.1
    noise = hypot(stdev(fixed), stdev(balanced)) / sqrt(len(SEEDS))  # standard error of the difference of the means
    assert mean(balanced) - mean(fixed) > 3 * noise


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["upgrad", "nash_mtl", "aligned_mtl"])
def test_independent_tasks_with_room_for_both_lose_nothing_by_it(explained, method):
    # In pieces, users' vectors fit less noise: what is lost then is lost by the weighting.
    log = {"scale": 1.0, "contested": False, "width": 8, "pieces": 4}
    for task in ("seconds", "stars"):
        fixed, balanced = (
            [run[task] for run in explained(weighting, **log)] for weighting in (FIXED, _gramian(method))
        )
        _told(f"{task} under fixed", fixed)
        _told(f"{task} under {method}", balanced)
        assert mean(fixed) > 0.7
        assert mean(balanced) > 0.99 * mean(fixed)
