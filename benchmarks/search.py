"""What the searchers of `raysys tune` save: searches replayed on 64 recorded configurations of examples/kuairand.

`evidence/tune_table.py` recorded the table: six tasks, twelve parameters, six epochs each, validation metrics. Samplers
and schedulers are those of `raysys tune`; `_replay.py` says how a proposal becomes a row, and `_choosing.py` how
searchers of two objectives choose among the rows that they have not had. `grid` and `cmaes` are left out: the space has
ranges without steps, and choices.

A search begins with a base. The example's own is well chosen and would leave little to find, so every seed begins with
a row that is drawn for it, the same for all searches.

A value is the metric at the best epoch so far of the best configuration so far. Regret is (best - value) / (best -
median), best and median of the table's configurations at their best epochs: 98 % of an AUC is easy, no regret is not.
Of two objectives the area that the trials cover counts, above the worst of the table in each.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "evidence"))

import _replay
import peers
import torch
import tune_table

SEARCHES = {
    "tpe + asha": ("tpe", "asha"),
    "tpe": ("tpe", "none"),
    "gp + asha": ("gp", "asha"),
    "random + asha": ("random", "asha"),
    "random": ("random", "none"),
}
"""Searcher and scheduler."""
METRICS = ("click.auc", "next_item.ndcg@10", "long_view.auc")
SEVERAL = ("gp", "tpe", "random")
"""Searchers of two objectives, the default first."""
PAIRS = (
    ("click.auc", "next_item.ndcg@10"),
    ("long_view.auc", "next_item.ndcg@10"),
    ("like.auc", "similar_item.ndcg@10"),
)
ENOUGH, MOST_EPOCHS = 0.98, 0.25
"""Of the table's best value, and of its epochs."""
ENOUGH_AREA, MOST_TRIALS = 0.95, 0.4
LITTLE_REGRET = 0.1
FEW_SEEDS, SEEDS = 5, 25
_NODE = ("objectives", "pick", "stop", "num_trials")
"""What the example's search says, and each replay says itself."""


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")  # that parts of Optuna's samplers are experimental
    torch.set_num_threads(1)  # of the Gaussian processes, too small for more
    about = peers.machine()
    node, rows = read_node(), _replay.read_rows(options.table)
    seeds = range(FEW_SEEDS if options.quick else SEEDS)
    single = {metric: _single(node, rows, metric, seeds) for metric in METRICS}
    several = {" and ".join(pair): _several(node, rows, pair, seeds) for pair in PAIRS}
    found = [row for metric in METRICS for row in _rows(metric, single[metric])]
    found += [row for pair, one in several.items() for row in _area_rows(pair, one)]
    peers.table(found)
    if options.output:
        table = {"configurations": len(rows), "epochs": _epochs(rows), "seeds": len(seeds)}
        table["rank_of_the_default"] = {metric: _rank(rows, metric) for metric in METRICS}
        peers.write(options.output, found, about, {"table": table, "single": single, "several": several})


def read_node() -> dict[str, Any]:
    """Return the search that the table was recorded for, less what each replay says itself."""
    return {key: value for key, value in tune_table.table_node().items() if key not in _NODE}


def _single(
    node: Mapping[str, Any], rows: Sequence[_replay.Row], metric: str, seeds: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Return what every search reaches in one metric: figures by name, one of each seed."""
    ends = [max(epoch[metric] for epoch in row.curve) for row in rows]
    best, middle, epochs = max(ends), statistics.median(ends), _epochs(rows)
    found = {}
    for name, (searcher, scheduler) in SEARCHES.items():
        kinds = {"searcher": {"kind": searcher}, "scheduler": {"kind": scheduler}}
        curves = []
        for seed in seeds:
            plan = _replay.read_search({**node, **kinds, "metric": metric, "num_trials": len(rows), "seed": seed})
            curves.append(curve(_replay.replay(plan, rows, first_row(rows, seed))))
        found[name] = figures(curves, best, middle, epochs)
        _say(f"{metric}, {name}: regret {statistics.median(found[name]['regret']):.3f}")
    return found


def first_row(rows: Sequence[_replay.Row], seed: int) -> _replay.Row:
    """Return the row that the searches of a seed begin with."""
    return random.Random(seed).choice(rows)


def curve(trials: Any) -> list[float]:
    """Return the best value so far after every epoch of a search."""
    return list(accumulate((value for trial in trials for value in trial.values), max))


def figures(curves: Sequence[Sequence[float]], best: float, middle: float, epochs: int) -> dict[str, list[float]]:
    """Return, of each curve, after what share of the epochs it is good enough, and where it stands at a quarter.

    What never is, because it was stopped too early, counts as all epochs.
    """
    budget = int(MOST_EPOCHS * epochs)
    quarter = [one[min(budget, len(one)) - 1] for one in curves]
    near = best - LITTLE_REGRET * (best - middle)
    return {
        "epochs": [min(_first(one, ENOUGH * best) / epochs, 1.0) for one in curves],
        "epochs_near": [min(_first(one, near) / epochs, 1.0) for one in curves],
        "value": [value / best for value in quarter],
        "regret": [(best - value) / (best - middle) if best > middle else 0.0 for value in quarter],
    }


def _first(values: Sequence[float], least: float) -> float:
    return next((place for place, value in enumerate(values, 1) if value >= least), float("inf"))


def _rows(metric: str, found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Return the rows of one metric: what is asked for, and every search beside random search."""
    asked = found["tpe + asha"]["epochs"]
    unit = "share of the table's epochs"
    rows = [
        peers.row(
            f"{metric}: tpe + asha, epochs to {ENOUGH:.0%} of the best, {name}",
            of(asked),
            MOST_EPOCHS,
            "limit",
            unit,
            True,
        )
        for name, of in (("median", statistics.median), ("worst seed", max))
    ]
    for name, one in found.items():
        for figure, told, unit in (
            ("value", f"value at {MOST_EPOCHS:.0%} of the epochs", "share of the best"),
            ("regret", f"regret at {MOST_EPOCHS:.0%} of the epochs", "share of best - median"),
            ("epochs_near", f"epochs to a regret of {LITTLE_REGRET:g}", "share of the table's epochs"),
        ):
            own, peer = statistics.median(one[figure]), statistics.median(found["random"][figure])
            beside = (None, "none") if name == "random" else (peer, "random search")
            rows.append(peers.row(f"{metric}: {name}, {told}", own, *beside, unit, figure != "value"))
    return rows


def _several(
    node: Mapping[str, Any], rows: Sequence[_replay.Row], pair: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Return after what share of the trials two objectives cover enough of what the table covers, one of each seed."""
    found: dict[str, list[float]] = {}
    names = {"objectives": [{"metric": metric} for metric in pair], "num_trials": len(rows)}
    for kind in SEVERAL:
        found[kind] = []
        for seed in seeds:
            plan = _replay.read_search({**node, **names, "searcher": {"kind": kind}, "seed": seed})
            points = [_replay.objectives_of(plan, row) for row in rows]
            trials = _replay.replay(plan, rows, first_row(rows, seed), choosing=True)
            found[kind].append(_trials_to_enough((one.objectives for one in trials), points) / len(rows))
        _say(f"{' and '.join(pair)}, {kind}: {statistics.median(found[kind]):.2f} of the trials")
    return found


def _trials_to_enough(told: Iterable[Sequence[float]], points: Sequence[Sequence[float]]) -> int:
    """Return after how many trials they cover enough of the area of all points, above the worst in each objective."""
    worst = [min(column) for column in zip(*points, strict=True)]
    enough = ENOUGH_AREA * _replay.hypervolume(points, worst)
    had: list[Sequence[float]] = []
    for one in told:
        had.append(one)
        if _replay.hypervolume(had, worst) >= enough:
            break
    return len(had)


def _area_rows(pair: str, found: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return the rows of two objectives: what is asked for, of the default, and every search beside random search."""
    told, unit = f"{pair}: {{}}, trials to {ENOUGH_AREA:.0%} of the area, {{}}".format, "share of the table's trials"
    medians = {kind: statistics.median(shares) for kind, shares in found.items()}
    default, *_ = SEVERAL
    asked = (("median", medians[default]), ("worst seed", max(found[default])))
    rows = [peers.row(told(default, name), own, MOST_TRIALS, "limit", unit, True) for name, own in asked]
    for kind, own in medians.items():
        beside = (None, "none") if kind == "random" else (medians["random"], "random search")
        rows.append(peers.row(told(kind, "median"), own, *beside, unit, True))
    return rows


def _rank(rows: Sequence[_replay.Row], metric: str) -> int:
    """Return the place of the example's own configuration, 1 is the best."""
    ends = [max(epoch[metric] for epoch in row.curve) for row in rows]
    return 1 + sum(end > ends[0] for end in ends)


def _epochs(rows: Sequence[_replay.Row]) -> int:
    return sum(len(row.curve) for row in rows)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{FEW_SEEDS} seeds instead of {SEEDS}")
    parser.add_argument("-o", "--output", type=Path, help="write the rows as JSON")
    parser.add_argument("--table", type=Path, default=tune_table.OUTPUT, help="what evidence/tune_table.py wrote")
    return parser.parse_args()


if __name__ == "__main__":
    main()
