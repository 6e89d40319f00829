"""Records the full curves of 64 configurations of examples/kuairand, for `benchmarks/search.py` to replay searches on.

Six tasks; their weights, two learning rates, dropout and sharing vary as `tune_table.yaml` says. The first
configuration is the example's own, the others are drawn at random. Validation metrics only. Resumable: every
configuration trains in a process of one thread, and what the output file holds for the same configs is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from quality import EXAMPLES, ingest, run_alone

FOLDER = EXAMPLES / "kuairand"
SEARCH = Path(__file__).with_suffix(".yaml")
"""Fixed weights alone, so that the table stays what it is when the example's search changes."""
OUTPUT = Path("benchmarks/results/evidence-tune_table.json")
CONFIGURATIONS = 64
LEFT_OUT = "popularity"
"""The example's seventh task."""
CHANGES = {"training.epochs=6", "training.evaluate_every=1", "evaluation.max_users=4000"}
SHARE = 0.25
"""Of the users, as `dataset_fraction` of a search."""
KEPT = ("ndcg@10", "recall@10", "auc", "gauc", "xauc", "log_loss")


def main() -> None:
    options = _options()
    if options.one is not None:
        _train(options.one, options.root)
        return
    ingest("kuairand", options.root)
    rows = {row["number"]: row for row in recorded(options.output)}
    todo = [number for number in range(CONFIGURATIONS) if number not in rows]
    with ThreadPoolExecutor(options.processes) as pool:
        for job in as_completed([pool.submit(_row, number, options.root) for number in todo]):
            row = job.result()
            rows[row["number"]] = row
            print(f"configuration {row['number']}: {row['curve'][-1] if row['curve'] else row['failed']}", flush=True)
            _write(options.output, [rows[number] for number in sorted(rows)])


def recorded(output: Path) -> list[dict[str, Any]]:
    """Return the recorded configurations of the configs that are here."""
    found = json.loads(output.read_text()) if output.is_file() else {}
    return found["rows"] if found.get("digest") == digest() else []


def digest() -> str:
    """Return what tells one table from another: the example's files and what is changed in them."""
    files = (FOLDER / "ingest.yaml", FOLDER / "finetune.yaml", SEARCH)
    texts = [file.read_text() for file in files]
    return hashlib.sha256("\0".join([*texts, *sorted(CHANGES), str(SHARE)]).encode()).hexdigest()[:16]


def table_node() -> dict[str, Any]:
    """Return the search that the table belongs to, but for the share of the users."""
    from raysys.configfile import apply_settings

    return apply_settings(without_a_task(SEARCH), [f"base.{change}" for change in sorted(CHANGES)])


def without_a_task(search: Path) -> dict[str, Any]:
    """Return a search around the example's base with six of its tasks."""
    from raysys.configfile import read_yaml

    node, base = read_yaml(search), read_yaml(FOLDER / "finetune.yaml")
    del base["tasks"][LEFT_OUT], base["weighting"]["weights"][LEFT_OUT]
    for part in node["space"].values():
        if LEFT_OUT in part.get("keys", ()):
            part["keys"].remove(LEFT_OUT)
    return {**node, "base": base}


def read_table_plan(root: Path) -> Any:
    """Return the search that the table belongs to, checked."""
    from tuning.plan import read_plan

    return read_plan(table_node(), [f"dataset_fraction={SHARE}"], root=str(root))


def drawn(plan: Any, number: int) -> dict[str, Any]:
    """Return Optuna's parameters of a configuration: the first is the base, the others are random and allowed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
    if number == 0:
        study.enqueue_trial(plan.space_of.default_params())
    while True:
        trial = study.ask()
        if plan.allows(plan.candidate(plan.space_of.suggest(trial))) or number == 0:
            return dict(trial.params)


def _train(number: int, root: Path) -> None:
    """Train a configuration in this process, and leave its curve behind."""
    from tuning.trial import TrialJob, read_reports, run_trial
    from tuning.verify import on_a_share

    plan = read_table_plan(root)
    params = drawn(plan, number)
    values = plan.space_of.values(params)
    whole = TrialJob(plan.base, plan.metric, plan.objectives.metrics, str(root / "table" / digest()))
    job = on_a_share(plan, whole)
    failed = None
    try:
        run_trial(job, number, values, lambda told: None)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    reports = read_reports(job, number, values)
    curve = [{name: value for name, value in told.items() if name.endswith(KEPT)} for told in reports]
    seconds = [round(told["seconds"], 2) for told in reports]
    row = {"number": number, "params": params, "failed": failed, "seconds": seconds, "curve": curve}
    _file(number, root).write_text(json.dumps(row))
    for folder in Path(job.directory).glob(f"{number:03d}/checkpoints"):
        shutil.rmtree(folder)


def _file(number: int, root: Path) -> Path:
    return root / "table" / digest() / f"{number:03d}.json"


def _row(number: int, root: Path) -> dict[str, Any]:
    file = _file(number, root)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        command = [sys.executable, __file__, "--one", str(number), "--root", str(root)]
        run_alone(command, file.with_suffix(".log"))
    row: dict[str, Any] = json.loads(file.read_text())
    row["curve"] = [{name: round(value, 6) for name, value in epoch.items()} for epoch in row["curve"]]
    return row


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    report = {"digest": digest(), "changes": sorted(CHANGES), "dataset_fraction": SHARE, "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--root", type=Path, default=Path("store/evidence"), help="where datasets and curves are kept")
    parser.add_argument("--processes", type=int, default=1, help="configurations that train at a time")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
