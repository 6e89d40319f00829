"""Losses over catalogues of 1k to 1M items: time and memory of a step, where sampled softmax overtakes full softmax.

A step is the loss of synthetic states against a synthetic item table, with the gradients of both; one thread, a
process for each loss. The encoder and the optimizer are left out. Memory is what torch holds at most during a step,
counted: a process's own peak depends on its heap by some megabytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import _crossover
import peers

WIDTH = 64
LOSSES: dict[str, dict[str, Any]] = {
    "full softmax, float32": {"kind": "full_softmax", "precision": "float32"},
    "full softmax, bfloat16": {"kind": "full_softmax", "precision": "bfloat16"},
    "sampled softmax, 256": {"kind": "sampled_softmax", "negatives": 256},
    "sampled softmax, 1 + 255 in batch": {"kind": "sampled_softmax", "negatives": 1, "in_batch": 255},
    "gBCE, 256": {"kind": "gbce", "negatives": 256},
    "BCE, 1": {"kind": "bce", "negatives": 1},
    "no loss: a table's gradient of zeros": {},
}
SAMPLED = "sampled softmax, 256"
FLAT = ("sampled softmax, 256", "gBCE, 256")
"""Losses whose memory beyond the table and its gradient shall not grow with the catalogue."""
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
TARGETS = 880
"""Targets of a step: as many as 128 users of Amazon Beauty have."""
MORE_TARGETS, MORE_SIZES = 4_096, (3_000, 10_000, 30_000, 100_000)
QUICK_SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "crossover.svg"
Points = list[dict[str, Any]]
MB = 1 << 20


def main() -> None:
    options = _options()
    if options.measure is not None:
        print(json.dumps(_measure(json.loads(options.measure))))
        return
    about, full = peers.machine(), _full()
    chosen = {name: loss for name, loss in LOSSES.items() if loss.get("kind") != "full_softmax" or name in full}
    points = _points(TARGETS, QUICK_SIZES if options.quick else SIZES, chosen)
    compared = {name: LOSSES[name] for name in (*full, SAMPLED)}
    more = [] if options.quick else _points(MORE_TARGETS, MORE_SIZES, compared)
    crossings = [
        {"full": name, "targets": some[0]["targets"], "items": _crossing(some, name)}
        for some in filter(None, (points, more))
        for name in full
    ]
    rows = _growth(points)
    peers.table(rows)
    for found in crossings:
        where = "outside of what was measured" if found["items"] is None else f"at {found['items']:,.0f} items"
        print(f"{SAMPLED} overtakes {found['full']} {where} ({found['targets']:,} targets a step)")
    if options.output:
        peers.write(options.output, rows, about, {"points": points + more, "crossover": crossings})
        FIGURE.write_text(_crossover.figure(json.loads(options.output.read_text()), (*full, *FLAT[:1]), TARGETS))


def _full() -> list[str]:
    """Return the full softmaxes; that in bfloat16 only where the processor multiplies it itself."""
    import torch

    from raysys.tasks.losses import fast_precision

    measured = {"float32", str(fast_precision(torch.device("cpu"))).removeprefix("torch.")}
    return [name for name, loss in LOSSES.items() if loss.get("precision") in measured]


def _points(targets: int, sizes: Sequence[int], losses: Mapping[str, Mapping[str, Any]]) -> Points:
    points = []
    for name, loss in losses.items():
        measured = _measured({"loss": loss, "sizes": list(sizes), "targets": targets, "for": 2.0})
        for items in sizes:
            found = measured[str(items)]
            gradient = items * WIDTH * 4 / MB  # as large as the table: no loss can save it while it is dense
            found["beyond_gradient_mb"] = found["beyond_table_mb"] - gradient
            points.append({"name": name, "items": items, "targets": targets, **found})
    return points


def _measured(what: Mapping[str, Any]) -> dict[str, Any]:
    return peers.run_peer(Path(sys.executable), Path(__file__).absolute(), ["--measure", json.dumps(what)])


def _measure(what: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Return by size the median of the CPU-seconds of a step, and the most memory beyond the table."""
    import torch

    torch.set_num_threads(1)
    _steps(what["loss"], 1_000, what["targets"], 0.0)  # what is made once belongs to no size
    return {items: _steps(what["loss"], items, what["targets"], what["for"]) for items in what["sizes"]}


def _steps(loss: Mapping[str, Any], items: int, targets: int, least: float) -> dict[str, float]:
    """Take three steps, or as many as fill `least` CPU-seconds; the first does not count."""
    import torch

    torch.manual_seed(0)
    table_VD = torch.randn(items, WIDTH).mul_(0.1).requires_grad_()
    states_ND = torch.randn(targets, WIDTH).requires_grad_()
    targets_N = torch.randint(items, (targets,))
    differentiate = _gradients(loss, items)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < least and len(seconds) < 100):
        begun = time.process_time()
        states_ND.grad = table_VD.grad = None
        differentiate(table_VD, states_ND, targets_N, len(seconds))
        seconds.append(time.process_time() - begun)
    states_ND.grad = table_VD.grad = None
    held = _most_held(lambda: differentiate(table_VD, states_ND, targets_N, len(seconds)))
    return {"seconds": median(seconds[1:]), "beyond_table_mb": held / MB}


def _most_held(step: Callable[[], None]) -> int:
    """Return the most bytes of what torch takes during a step that it holds at a time."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profiler.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_bytes())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(itertools.accumulate(size for _, size in changes), default=0)


def _gradients(settings: Mapping[str, Any], items: int) -> Callable[[Any, Any, Any, int], None]:
    """Return what computes a loss and leaves its gradients at table and states."""
    import torch

    from raysys.tasks.negatives import Asked
    from raysys.tasks.objectives import OBJECTIVES

    if not settings:
        return lambda table_VD, states_ND, targets_N, key: setattr(table_VD, "grad", torch.zeros_like(table_VD))
    kind = OBJECTIVES[settings["kind"]]
    objective = kind(kind.Config.model_validate(settings), items)

    def differentiate(table_VD: Any, states_ND: Any, targets_N: Any, key: int) -> None:
        rows_N = torch.arange(len(targets_N))
        asked = Asked(states_ND, targets_N, rows_N=rows_N, places_N=rows_N, key=key)
        (objective(asked, _Vectors(table_VD)) / len(targets_N)).backward()

    return differentiate


class _Vectors:
    """The item vectors of a model that has nothing but a table."""

    def __init__(self, table_VD: Any) -> None:
        self._table_VD = table_VD

    def __call__(self, items: Any) -> Any:
        return self._table_VD[items]

    def table(self) -> Any:
        return self._table_VD


def _growth(points: Points) -> list[dict[str, Any]]:
    """Set the largest catalogue beside the one of 10k; `ratio` is 1 where nothing grows."""
    at = {(point["name"], point["items"]): point for point in points}
    largest = max(point["items"] for point in points)
    kinds = (
        ("seconds", "CPU-s"),
        ("beyond_table_mb", "MB beyond the table"),
        ("beyond_gradient_mb", "MB beyond table and gradient"),
    )
    rows = []
    for name in dict.fromkeys(point["name"] for point in points):
        large, small = at[name, largest], at[name, 10_000]
        title = f"{name}: a step over {largest:,} items"
        rows += [peers.row(title, large[kind], small[kind], "10,000 items", unit, True) for kind, unit in kinds]
    for name in FLAT:
        large, small = (at[name, size]["beyond_gradient_mb"] for size in (largest, 10_000))
        rows.append(peers.row(f"{name}: growth of that memory", large / small, 1.1, "limit", "times", True))
    return rows


def _crossing(points: Points, full: str) -> float | None:
    """Return the catalogue from which on the sampled softmax is faster, between two sizes by powers; None: nowhere."""
    seconds = {(point["name"], point["items"]): point["seconds"] for point in points}
    sizes = sorted({point["items"] for point in points})
    lead = [math.log(seconds[full, size] / seconds[SAMPLED, size]) for size in sizes]
    for at in range(len(sizes) - 1):
        if lead[at] <= 0 < lead[at + 1]:
            share = lead[at] / (lead[at] - lead[at + 1])
            return float(sizes[at] * (sizes[at + 1] / sizes[at]) ** share)
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100k items: two minutes")
    parser.add_argument("-o", "--output", type=Path, help="write rows and points as JSON, and draw docs/crossover.svg")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
