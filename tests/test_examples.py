"""Every YAML under examples/ is valid, and those on data that is here run."""

from pathlib import Path

import pytest

from raysys.config import RunConfig
from raysys.configfile import build, read_yaml
from raysys.data.config import IngestConfig

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").rglob("*.yaml"))


def _model(path: Path):
    if path.stem == "ingest":
        return IngestConfig
    if path.stem in ("pretrain", "finetune"):
        return RunConfig
    if path.stem == "tune":
        from tuning.config import TuneConfig

        return TuneConfig
    from serving.config import ServeConfig

    return ServeConfig


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_valid(path):
    assert path.stem in ("ingest", "pretrain", "finetune", "tune", "serve"), "unknown kind of example"
    config = build(_model(path), read_yaml(path), str(path))
    assert config.model_dump(mode="json")


@pytest.mark.parametrize("folder", sorted({path.parent.name for path in FILES}))
def test_every_example_starts_with_a_log(folder):
    assert (ROOT / "examples" / folder / "ingest.yaml") in FILES
    assert (ROOT / "examples" / folder / "pretrain.yaml") in FILES


@pytest.mark.cluster
@pytest.mark.parametrize("folder", ["synthetic", "retail"])
def test_generated_examples_run(folder, tmp_path, command, ray_cluster):
    example = ROOT / "examples" / folder
    assert command("ingest", example / "ingest.yaml", "--root", tmp_path)[0] == 0
    code, out, err = command(
        "train", example / "pretrain.yaml", "--root", tmp_path, "--set", "training.epochs=1", "--json"
    )
    assert code == 0, err
    assert '"next_item.ndcg@10"' in out
