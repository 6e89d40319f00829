"""One model of all tasks of examples/kuairand beside a model of each task alone: the same budget, several seeds.

Resumable: what the output file holds for the same configs is not done again, and unfinished runs go on from their
checkpoints. Every run trains in a process of one thread; each is evaluated on the test period once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from quality import EXAMPLES, ingest, recorded, run_alone, run_options, train_command

from raysys.configfile import dump_yaml, read_yaml

FOLDER = EXAMPLES / "kuairand"
OUTPUT = Path("benchmarks/results/evidence-multitask.json")
TOGETHER = "together"
MEASURED = {
    "next_item": "next_item.ndcg@10",
    "click": "click.auc",
    "long_view": "long_view.auc",
    "like": "like.auc",
    "watch_time": "watch_time.xauc",
    "similar_item": "similar_item.ndcg@10",
    "popularity": "popularity.xauc",
}
"""What each task is judged by; higher is better in all."""
ALONE = {"long_view": {"kind": "binary", "label": "long_view", "events": ["impression"]}}
"""Tasks that build on another one, as they are trained alone."""
REFERENCE = {
    "click.auc": 0.734,
    "click.gauc": 0.629,
    "long_view.auc": 0.735,
    "long_view.gauc": 0.644,
    "like.auc": 0.818,
    "like.gauc": 0.598,
}
"""Boosted trees (LightGBM) on the same split; `benchmarks/multitask.py` trains them."""
LEAST_SHARE, MOST_ERROR = 0.995, 0.01


def main() -> None:
    options = _options()
    ingest("kuairand", options.root)
    rows = _current(options.output)
    todo = [(model, seed) for seed in options.seeds for model in options.models if (model, seed) not in rows]
    with ThreadPoolExecutor(options.processes) as pool:
        for job in as_completed([pool.submit(train, model, seed, options.root) for model, seed in todo]):
            row = job.result()
            rows |= _current(options.output) | {(row["model"], row["seed"]): row}
            print(f"{row['model']} seed {row['seed']}: {row['test']}", flush=True)
            _write(options.output, [rows[key] for key in sorted(rows)])
    _write(options.output, [rows[key] for key in sorted(rows)])


def _current(output: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the recorded rows of the configs that are here."""
    return {(row["model"], row["seed"]): row for row in recorded(output) if row["digest"] == digest(row["model"])}


def config_of(model: str) -> dict[str, Any]:
    """Return the config of all tasks together, or that of one alone, which weighs nothing."""
    node: dict[str, Any] = read_yaml(FOLDER / "finetune.yaml")
    if model != TOGETHER:
        node["tasks"] = {model: ALONE.get(model, node["tasks"][model])}
        node.pop("weighting", None)
    return node


def digest(model: str) -> str:
    """Return what tells one config of a model, and of its data, from another."""
    texts = [(FOLDER / "ingest.yaml").read_bytes(), dump_yaml(config_of(model)).encode()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def train(model: str, seed: int, root: Path) -> dict[str, Any]:
    """Train and evaluate all tasks together, or one alone; returns its row."""
    run = root / "multitask" / f"{model}-{digest(model)}-seed{seed}"
    config = root / f"{run.name}.yaml"
    config.write_text(dump_yaml(config_of(model)))
    if not (run / "run.json").is_file():
        run_alone(train_command(config, run, seed, root), root / f"{run.name}.log")
    reports = {report["split"]: report for report in json.loads((run / "report.json").read_text())}
    wanted = set(MEASURED.values()) | set(REFERENCE) | {"click.ece", "long_view.ece", "like.ece"}
    test = {name: found["mean"] for name, found in reports["test"]["metrics"].items() if name in wanted}
    record = json.loads((run / "run.json").read_text())
    seconds = round(record["seconds"], 1)
    return {"model": model, "seed": seed, "digest": digest(model), "seconds": seconds, "test": test}


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    report = {"rows": rows, "summary": summary(rows)}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(yaml.safe_dump(report["summary"], sort_keys=False, default_flow_style=None, width=120))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return each task's share of what it reaches alone, over the seeds that both have, and every asked-for figure."""
    test = {(row["model"], row["seed"]): row["test"] for row in rows}
    seeds = sorted({seed for model, seed in test if model == TOGETHER})
    if not seeds:
        return {}
    shares = {}
    for task, metric in MEASURED.items():
        both = [seed for seed in seeds if (task, seed) in test]
        if both:
            pairs = [(test[TOGETHER, seed][metric], test[task, seed][metric]) for seed in both]
            shares[task] = {
                "metric": metric,
                "together": _mean(a for a, _ in pairs),
                "alone": _mean(b for _, b in pairs),
            }
            shares[task] |= _interval([a / b for a, b in pairs])
    together = [test[TOGETHER, seed] for seed in seeds]
    figures = {
        name: {**_interval([one[name] for one in together]), "boosted_trees": least}
        for name, least in REFERENCE.items()
    }
    errors = {name: _interval([one[name] for one in together]) for name in ("click.ece", "long_view.ece", "like.ece")}
    return {"shares": shares, "figures": figures, "calibration": errors}


def _mean(values: Any) -> float:
    return round(statistics.mean(values), 4)


def _interval(values: list[float]) -> dict[str, Any]:
    """Return mean and 95 % interval (Student's t) over seeds."""
    from scipy import stats

    mean = statistics.mean(values)
    if len(values) < 2:
        return {"mean": round(mean, 4), "seeds": 1}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4), "seeds": len(values)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    models = [TOGETHER, *MEASURED]
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    return run_options(parser, [0, 1, 2, 3, 4], OUTPUT)


if __name__ == "__main__":
    main()
