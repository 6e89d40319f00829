"""Ray workers are killed while they ingest, and the dataset is the same byte for byte; the evidence kills more."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chaos():
    """The evidence script as a module."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "evidence"))
    try:
        import ingest_chaos

        yield ingest_chaos
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "evidence"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where generated logs and datasets lie."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="module")
def reference(chaos, folder):
    """An ingestion into twenty lanes that nobody disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSYS_BENCH", str(folder))
        found = chaos.undisturbed(chaos.click_log(300_000, 20_000), folder / "reference", 20, 300_000)
    assert len(found.contents) > 60, "twenty lanes have a shard, a log and items each"
    return found


@pytest.mark.process
@pytest.mark.timeout(900)
def test_three_killed_workers_change_nothing(chaos, reference, folder):
    found = chaos.kill_workers(reference, folder / "killed", kills=3, seed=0)
    assert found["killed"], "the ingestion ended before a worker could be killed"
    assert found["same"], found


@pytest.mark.process
@pytest.mark.timeout(900)
def test_a_killed_driver_leaves_the_old_version_and_the_next_ingestion_succeeds(chaos, reference, folder, monkeypatch):
    monkeypatch.setenv("RAYSYS_BENCH", str(folder))
    old = chaos.undisturbed(chaos.click_log(100_000, 5_000), folder / "old", 5, 100_000)
    for seed in range(6):  # the moment is drawn: where it comes after the end, another one is
        shutil.copytree(folder / "old", folder / f"driver{seed}")
        found = chaos.kill_driver(reference, folder / f"driver{seed}", seed=seed, old=old)
        if found["left"] == ["v0001"]:
            break
    assert found["left"] == ["v0001"], "no kill came before the end"
    assert found["same"], found
