"""The winner of a search beside the default configuration and the best weighting method, on the test period.

Six tasks of examples/kuairand, all users, the example's epochs. The best three configurations of the recorded table
(`tune_table.py`), by the example's own rule over two objectives, are trained on all users beside the default, as
`raysys tune` verifies them; the best of the four on validation is the winner. Of the weighting methods, each with the
default's other values, the best on validation by the same rule counts. Only then is test looked at, by paired bootstrap
over users (`raysys runs compare`): the intervals are of users, not of seeds. Resumable: finished trainings are kept
under --root, and what the output file holds for the same configs is not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _replay
import tune_table
import yaml
from quality import ingest, recorded, run_alone, train_command

from raysys.configfile import apply_settings, dump_yaml
from tuning.plan import Plan
from tuning.report import Leaderboard, TrialRecord
from tuning.verify import best_trials

OUTPUT = Path("benchmarks/results/evidence-tune_winner.json")
DEFAULT = "default"
TOP = 3
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "fixed, all 1": {"kind": "fixed"},
    "uncertainty": {"kind": "uncertainty"},
    "dwa": {"kind": "dwa"},
    "famo": {"kind": "famo"},
    "gradnorm": {"kind": "gradnorm"},
    "upgrad": {"kind": "gramian", "method": "upgrad"},
    "pcgrad": {"kind": "gramian", "method": "pcgrad"},
    "cagrad": {"kind": "gramian", "method": "cagrad"},
    "nash_mtl": {"kind": "gramian", "method": "nash_mtl"},
}
QUICK = ("training.user_share=0.05", "evaluation.max_users=2000", "evaluation.resamples=100")
COMPARED = ("click.auc", "next_item.ndcg@10", "long_view.auc", "like.auc", "watch_time.xauc", "similar_item.ndcg@10")
"""The objectives, and what the other tasks are judged by."""


def main() -> None:
    options = _options()
    ingest("kuairand", options.root)
    plan = read_plan(options.quick, options.root)
    todo = contenders(options.table)
    digests = {name: digest(values) for name, values in todo.items()}
    rows = {row["name"]: row for row in recorded(options.output) if row["digest"] == digests.get(row["name"])}
    with ThreadPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(train, plan, name, todo[name], options.root) for name in todo if name not in rows]
        for job in as_completed(jobs):
            row = job.result()
            rows[row["name"]] = row
            print(f"{row['name']}: {row['valid']}", flush=True)
            _write(options.output, {"rows": [rows[name] for name in todo if name in rows]})
    ordered = [rows[name] for name in todo]
    summary = verdict(plan, ordered, {name: run_of(name, values, options.root) for name, values in todo.items()})
    _write(options.output, {"rows": ordered, "summary": summary})
    print(yaml.safe_dump(summary, sort_keys=False, default_flow_style=None, width=120))


def read_plan(quick: bool, root: Path) -> Plan:
    """Return the search of the example with six of its tasks, every epoch validated."""
    settings = ["training.evaluate_every=1", *(QUICK if quick else ())]
    node = apply_settings(tune_table.read_node(), [f"base.{setting}" for setting in settings])
    return _replay.read_search({**node, "base": {**node["base"], "root": str(root)}})


def contenders(table: Path) -> dict[str, dict[str, Any]]:
    """Return what each training changes in the default: nothing, what the search found best, or the weighting."""
    found = best_of(_replay.read_rows(table))
    weightings = {name: {"weighting": config} for name, config in WEIGHTINGS.items()}
    return {DEFAULT: {}, **{f"configuration {number}": values for number, values in found.items()}, **weightings}


def best_of(rows: Sequence[_replay.Row]) -> dict[int, dict[str, Any]]:
    """Return the values of the best configurations of the table by the rule of the search, without the default."""
    node = apply_settings(tune_table.read_node(), [f"base.{change}" for change in sorted(tune_table.CHANGES)])
    plan = _replay.read_search(node)
    board = Leaderboard(plan.objectives, plan.pick)
    for row in rows:
        values = plan.space_of.values(row.params)
        ended = TrialRecord(row.number, values, "finished", objectives=_replay.objectives_of(plan, row))
        board.trials[row.number] = ended
    return {trial.number: trial.values for trial in best_trials(board, TOP) if trial.number != 0}


def digest(values: Mapping[str, Any]) -> str:
    """Return what tells one training from another: the example's files, and what is changed in them."""
    return hashlib.sha256(f"{tune_table.digest()}\0{dump_yaml(values)}".encode()).hexdigest()[:16]


def run_of(name: str, values: Mapping[str, Any], root: Path) -> Path:
    """Return where a run is kept."""
    return root / "winner" / f"{name.replace(',', '').replace(' ', '-')}-{digest(values)}"


def train(plan: Plan, name: str, values: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Train and evaluate one configuration in a process of its own; returns its row."""
    run, config = run_of(name, values, root), plan.candidate(values)
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".yaml")
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    if not (run / "run.json").is_file():
        run_alone(train_command(file, run, config.seed, root), run.with_suffix(".log"))
    record = json.loads((run / "run.json").read_text())
    reports = {report["split"]: report["metrics"] for report in json.loads((run / "report.json").read_text())}
    valid, test = (
        {metric: round(reports[split][metric]["mean"], 6) for metric in COMPARED} for split in ("valid", "test")
    )
    about = {"digest": digest(values), "seconds": round(record["seconds"], 1), "best_epoch": record["best_epoch"]}
    return {"name": name, **about, "valid": valid, "test": test}


def verdict(plan: Plan, rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Path]) -> dict[str, Any]:
    """Return who is best on validation, and what the winner gains on test over the others."""
    searched = [row for row in rows if row["name"] not in WEIGHTINGS]
    winner = picked(plan, searched)
    weighting = picked(plan, [row for row in rows if row["name"] in WEIGHTINGS])
    beside = {"default": DEFAULT, "best weighting": weighting}
    gains = {told: gain(runs[other], runs[winner]) for told, other in beside.items() if other != winner}
    return {"winner": winner, "best_weighting": weighting, "gain_of_the_winner": gains}


def picked(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the best row on validation, by the rule of the search."""
    points = {place: [row["valid"][name] for name in plan.objectives.metrics] for place, row in enumerate(rows)}
    number = plan.objectives.pick(plan.pick, points)
    assert number is not None
    return str(rows[number]["name"])


def gain(first: Path, second: Path) -> dict[str, dict[str, float]]:
    """Return what the second run has more than the first on test, with the interval over users, by metric."""
    from raysys.evaluation.compare import compare
    from raysys.evaluation.outcomes import Kept
    from raysys.runs import Run

    opened = Run.open(first)
    kept = [Kept.read(path, "test") for path in (first, second)]
    found = compare(kept[0], kept[1], "test", True, opened.config.evaluation)
    wanted = ("first", "second", "difference", "low", "high", "share_above_zero")
    return {
        one.metric: {key: round(value, 5) for key, value in asdict(one).items() if key in wanted}
        for one in found.differences
        if one.metric in COMPARED
    }


def _write(output: Path, report: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="on a twentieth of the users: whether it works")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", type=Path, default=tune_table.OUTPUT, help="what tune_table.py wrote")
    parser.add_argument("--root", type=Path, default=Path("store/evidence"), help="where datasets and runs are kept")
    parser.add_argument("--processes", type=int, default=1, help="configurations that train at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
