"""The winner of a search beside the default configuration and the best weighting method, on the test period.

Six tasks of examples/kuairand, all users, the example's epochs. The best three configurations of the recorded table
(`tune_table.py`) are trained beside the default and every weighting method with the default's other values; then the
example's search goes on from there, over weighting methods too (`tune_search.py`). The best three of all that, by the
example's own rule over two objectives on validation, are trained with a second seed; the best on the mean of both is
the winner. Of the weighting methods the best on validation counts, by the same rule. Winner, default and that method
are trained with further seeds, by which nothing was chosen, and only then is test looked at, seeds averaged
(`_paired.py`): each metric, and the rule's own sum, scaled as on validation. Resumable: finished trainings are kept
under --root, and what the output file holds for the same configs is not done again, unless test needs the run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import _paired
import _replay
import tune_search
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
TABLE, TRIAL = "configuration ", "trial "
"""What names begin with."""
TRIALS = 10
CHOSEN, SEEDS = 2, 3
"""How many seeds something is chosen by, and by how many others test compares."""
RULE = "the rule"
Rows = dict[tuple[str, int], dict[str, Any]]
"""Rows of the report by name and seed."""


def main() -> None:
    options = _options()
    ingest("kuairand", options.root)
    plan = read_plan(options.quick, options.root)
    todo = contenders(options.table, recorded(options.output))
    rows = current(options.output, todo)
    fill(rows, plan, todo, [(name, 0) for name in todo if (name, 0) not in rows], options)
    search_on(rows, todo, options)
    first = [rows[name, 0] for name in todo]
    best = best_names(plan, first)
    fill(rows, plan, todo, [(name, 1) for name in best if (name, 1) not in rows], options)
    winner = picked(plan, [mean_of([rows[name, 0], rows[name, 1]], plan) for name in best])
    weighting = picked(plan, [row for row in first if row["name"] in WEIGHTINGS])
    names = dict.fromkeys((DEFAULT, weighting, winner))
    compared = [(name, seed) for seed in range(CHOSEN, CHOSEN + options.seeds) for name in names]
    runs = {(name, seed): run_of(name, todo[name], options.root, seed) for name, seed in compared}
    lacking = [key for key, run in runs.items() if key not in rows or not (run / "run.json").is_file()]
    fill(rows, plan, todo, lacking, options)
    gains = verdict(plan, first, runs, winner, {"default": DEFAULT, "best weighting": weighting})
    about = {"winner": winner, "values": todo[winner], "best_three": best, "best_weighting": weighting}
    summary = {**about, "seeds": options.seeds, **gains}
    _write(options.output, {"rows": _ordered(rows, todo), "summary": summary})
    print(yaml.safe_dump(summary, sort_keys=False, default_flow_style=None, width=120))


def search_on(rows: Rows, todo: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Go on with the search from what was trained with the first seed, and add its trials."""
    plan = tune_search.read_search(options.root)
    full = {name: {"values": todo[name], **rows[name, 0]} for name in todo}
    places = {int(name.removeprefix(TABLE)): one for name, one in full.items() if name.startswith(TABLE)}
    known = tune_search.known_of(
        plan,
        _replay.read_rows(options.table),
        {0: full[DEFAULT], **places},
        [full[name] for name in WEIGHTINGS],
    )
    before = [one for name, one in full.items() if name.startswith(TRIAL)]
    for told in tune_search.search(plan, known, before, options.trials, options.root):
        name = f"{TRIAL}{told.pop('number')}"
        todo[name] = told["values"]
        rows[name, 0] = {"name": name, "seed": 0, "digest": digest(told["values"]), **told}
        print(f"{name}: {told['valid']}", flush=True)
        _write(options.output, {"rows": _ordered(rows, todo)})


def current(output: Path, todo: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Return the recorded rows of the configs that are here."""
    digests = {name: digest(values) for name, values in todo.items()}
    return {(row["name"], row["seed"]): row for row in recorded(output) if row["digest"] == digests.get(row["name"])}


def fill(
    rows: Rows,
    plan: Plan,
    todo: Mapping[str, Mapping[str, Any]],
    wanted: Sequence[tuple[str, int]],
    options: argparse.Namespace,
) -> None:
    """Train what is wanted and add its rows, here and in the output file."""
    with ThreadPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(train, plan, name, todo[name], options.root, seed) for name, seed in wanted]
        for job in as_completed(jobs):
            row = job.result()
            rows[row["name"], row["seed"]] = row
            print(f"{row['name']}, seed {row['seed']}: {row['valid']}", flush=True)
            _write(options.output, {"rows": _ordered(rows, todo)})


def _ordered(rows: Rows, todo: Mapping[str, Any]) -> list[dict[str, Any]]:
    places = {name: place for place, name in enumerate(todo)}
    return [rows[key] for key in sorted(rows, key=lambda key: (key[1], places[key[0]]))]


def read_plan(quick: bool, root: Path) -> Plan:
    """Return the search of the example with six of its tasks, every epoch validated."""
    settings = ["training.evaluate_every=1", *(QUICK if quick else ())]
    search = tune_table.without_a_task(tune_table.FOLDER / "tune.yaml")
    node = apply_settings(search, [f"base.{setting}" for setting in settings])
    return _replay.read_search({**node, "base": {**node["base"], "root": str(root)}})


def contenders(table: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what each training changes in the default.

    Nothing, what is best in the table, the weighting, or what the search has tried by the rows that are recorded.
    """
    found = {f"{TABLE}{number}": values for number, values in best_of(_replay.read_rows(table)).items()}
    weightings = {name: {"weighting": config} for name, config in WEIGHTINGS.items()}
    tried = {row["name"]: row["values"] for row in rows if row["name"].startswith(TRIAL) and row["seed"] == 0}
    return {DEFAULT: {}, **found, **weightings, **tried}


def best_of(rows: Sequence[_replay.Row]) -> dict[int, dict[str, Any]]:
    """Return the values of the best configurations of the table by the rule of its search, without the default."""
    plan = _replay.read_search(tune_table.table_node())
    board = Leaderboard(plan.objectives, plan.pick)
    for row in rows:
        values = plan.space_of.values(row.params)
        ended = TrialRecord(row.number, values, "finished", objectives=_replay.objectives_of(plan, row))
        board.trials[row.number] = ended
    return {trial.number: trial.values for trial in best_trials(board, TOP) if trial.number != 0}


def digest(values: Mapping[str, Any]) -> str:
    """Return what tells one training from another: the example's files, and what is changed in them."""
    return hashlib.sha256(f"{tune_table.digest()}\0{dump_yaml(values)}".encode()).hexdigest()[:16]


def run_of(name: str, values: Mapping[str, Any], root: Path, seed: int) -> Path:
    """Return where a run is kept."""
    return root / "winner" / f"{name.replace(',', '').replace(' ', '-')}-{digest(values)}-seed{seed}"


def train(plan: Plan, name: str, values: Mapping[str, Any], root: Path, seed: int) -> dict[str, Any]:
    """Train and evaluate one configuration in a process of its own; returns its row."""
    run, config = run_of(name, values, root, seed), plan.candidate(values)
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.with_suffix(".yaml")
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    if not (run / "run.json").is_file():
        run_alone(train_command(file, run, seed, root), run.with_suffix(".log"))
    record = json.loads((run / "run.json").read_text())
    reports = {report["split"]: report["metrics"] for report in json.loads((run / "report.json").read_text())}
    valid, test = (
        {metric: round(reports[split][metric]["mean"], 6) for metric in COMPARED} for split in ("valid", "test")
    )
    about = {"digest": digest(values), "seconds": round(record["seconds"], 1), "best_epoch": record["best_epoch"]}
    return {"name": name, "seed": seed, **about, "valid": valid, "test": test}


def verdict(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    runs: Mapping[tuple[str, int], Path],
    winner: str,
    beside: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the winner gains on test over the others, all seeds together; `rows` set the scales of the rule."""
    from raysys.runs import Run

    scales, config = scales_of(plan, rows), Run.open(next(iter(runs.values()))).config.evaluation
    found: dict[str, list[_paired.Figures]] = {}
    for (name, _), run in runs.items():
        figures = _paired.read_figures(run, COMPARED, config)
        found.setdefault(name, []).append(_paired.add_sum(figures, RULE, scales))
    gains = {
        told: _paired.differences(found[other], found[winner], config.confidence)
        for told, other in beside.items()
        if other != winner
    }
    return {"scales": {name: list(bounds) for name, bounds in scales.items()}, "gain_of_the_winner": gains}


def scales_of(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Return between which values of each objective the rule scales: of the unbeaten of all rows, on validation.

    The rule of the example weighs both objectives alike.
    """
    names = plan.objectives.metrics
    points = {place: [row["valid"][name] for name in names] for place, row in enumerate(rows)}
    columns = zip(*(points[place] for place in plan.objectives.pareto(points)), strict=True)
    return {name: (min(column), max(column)) for name, column in zip(names, columns, strict=True)}


def best_names(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the best three rows on validation, each the best of those that are left."""
    left, best = list(rows), []
    while left and len(best) < TOP:
        best.append(picked(plan, left))
        left = [row for row in left if row["name"] != best[-1]]
    return best


def mean_of(rows: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Return one row for several seeds of a training: what it has on validation, on average."""
    valid = {name: statistics.fmean(row["valid"][name] for row in rows) for name in plan.objectives.metrics}
    return {"name": rows[0]["name"], "valid": valid}


def picked(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of the best row on validation, by the rule of the search."""
    points = {place: [row["valid"][name] for name in plan.objectives.metrics] for place, row in enumerate(rows)}
    number = plan.objectives.pick(plan.pick, points)
    assert number is not None
    return str(rows[number]["name"])


def _write(output: Path, report: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="on a twentieth of the users: whether it works")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", type=Path, default=tune_table.OUTPUT, help="what tune_table.py wrote")
    parser.add_argument("--root", type=Path, default=Path("store/evidence"), help="where datasets and runs are kept")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of the search")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each configuration that test compares")
    parser.add_argument("--processes", type=int, default=1, help="configurations that train at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
