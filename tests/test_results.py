"""docs/results.md says what the recorded figures say, and these are of the configs that are in the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "evidence-quality.json").read_text())


def test_the_page_is_that_of_the_figures():
    done = subprocess.run([sys.executable, "docs/results_page.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_figures_are_of_the_configs_that_are_here():
    code = (
        "import sys; sys.path += ['benchmarks/evidence']; from quality import digest; print(*map(digest, sys.argv[1:]))"
    )
    names = sorted({row["example"] for row in FIGURES["rows"]})
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    digests = dict(zip(names, done.stdout.split(), strict=True))
    for row in FIGURES["rows"]:
        changed = f"the example {row['example']} changed: run benchmarks/evidence/quality.py again"
        assert row["config_digest"] == digests[row["example"]], changed


@pytest.mark.process
def test_figures_of_many_tasks_are_of_the_configs_that_are_here():
    code = (
        "import sys; sys.path += ['benchmarks/evidence']; "
        "from multitask import digest; print(*map(digest, sys.argv[1:]))"
    )
    rows = json.loads((ROOT / "benchmarks" / "results" / "evidence-multitask.json").read_text())["rows"]
    names = [row["model"] for row in rows]
    done = subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = "examples/kuairand changed: run benchmarks/evidence/multitask.py again"
    assert [row["digest"] for row in rows] == done.stdout.split(), changed


@pytest.mark.process
def test_figures_of_the_winner_are_of_the_configs_that_are_here():
    code = (
        "import json, sys; sys.path += ['benchmarks/evidence']; import tune_table, tune_winner; "
        "found = tune_winner.contenders(tune_table.OUTPUT, tune_winner.recorded(tune_winner.OUTPUT)); "
        "print(json.dumps({name: tune_winner.digest(values) for name, values in found.items()}))"
    )
    rows = json.loads((ROOT / "benchmarks" / "results" / "evidence-tune_winner.json").read_text())["rows"]
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = "examples/kuairand changed: run benchmarks/evidence/tune_winner.py again"
    assert {row["name"]: row["digest"] for row in rows} == json.loads(done.stdout), changed
