"""Every YAML under examples/ is valid, and those on data that is here run."""

from pathlib import Path

import pytest

from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.data.config import IngestConfig
from raysys.data.files import read_arrow
from raysys.data.ingest import ingest
from raysys.data.line import in_process

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").rglob("*.yaml"))


def _model(path: Path):
    if path.stem == "ingest":
        return IngestConfig
    if path.stem.partition("-")[0] in ("pretrain", "finetune"):
        return RunConfig
    if path.stem == "tune":
        from tuning.config import TuneConfig

        return TuneConfig
    from serving.config import ServeConfig

    return ServeConfig


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_valid(path):
    kinds = ("ingest", "pretrain", "finetune", "tune", "serve")
    assert path.stem.partition("-")[0] in kinds, "unknown kind of example"
    config = build(_model(path), read_yaml(path), str(path))
    assert config.model_dump(mode="json")


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in FILES}))
def test_every_example_starts_with_a_log(folder):
    assert (ROOT / "examples" / folder / "ingest.yaml") in FILES
    assert (ROOT / "examples" / folder / "pretrain.yaml") in FILES


FOUND = {  # what the owners of the data say is in them
    "movielens-100k": {"num_users": 943, "num_events": 100_000, "event_names": ("rating",)},
    "movielens-1m": {"num_users": 6_040, "num_events": 999_611, "event_names": ("rating",)},
    "amazon-beauty": {"num_users": 22_363, "num_events": 198_502, "event_names": ("review",)},
    "amazon-toys": {"num_users": 19_412, "num_events": 167_597, "event_names": ("review",)},
    "kuairand": {"num_events": 1_429_545, "event_names": ("impression", "like", "long_watch", "watch")},
}


@pytest.mark.thorough
@pytest.mark.parametrize("folder", FOUND)
def test_real_logs_become_datasets_by_their_yaml_alone(folder, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSYS_DATA", str(data_root))
    path = ROOT / "examples" / folder / "ingest.yaml"
    dataset = ingest(build(IngestConfig, read_yaml(path), str(path)), tmp_path / "dataset", each=in_process)
    manifest = dataset.manifest
    assert {name: getattr(manifest, name) for name in FOUND[folder]} == FOUND[folder]
    assert not manifest.rejected
    assert manifest.rows == manifest.kept + sum(manifest.cleaned.values())
    if folder == "kuairand":
        assert sum(manifest.events_by_name["impression"]) == 198_895
        assert manifest.label_means["click"] == pytest.approx(0.44, abs=0.01)
        assert manifest.label_means["like"] == pytest.approx(0.017, abs=0.001)
        assert manifest.cleaned.keys() == {"empty_list"}, "people without a like have an empty list"
        users = read_arrow(dataset.path / "users.arrow")
        assert users.num_rows == manifest.num_users
        assert users["number.register_days"].null_count == 0


@pytest.mark.cluster
@pytest.mark.parametrize("folder", ["synthetic", "retail"])
def test_generated_examples_run(folder, tmp_path, command, ray_cluster, monkeypatch):
    monkeypatch.setenv("RETAIL", str(tmp_path / "retail"))
    assert command("data", "generate", tmp_path / "retail")[0] == 0
    example = ROOT / "examples" / folder
    assert command("ingest", example / "ingest.yaml", "--root", tmp_path)[0] == 0
    code, out, err = command(
        "train", example / "pretrain.yaml", "--root", tmp_path, "--set", "training.epochs=1", "--json"
    )
    assert code == 0, err
    assert '"next_item.ndcg@10"' in out
