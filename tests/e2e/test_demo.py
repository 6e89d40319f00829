"""The whole line through the command: logs in, a trained, tuned, evaluated recommender answering out."""

import re
import socket
from pathlib import Path

import pytest

import raysys
from raysys.configfile import read_yaml

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_demo_goes_the_whole_line(ray_cluster, data_root, tmp_path, command, free_port, monkeypatch):
    monkeypatch.setenv("RAYSYS_ROOT", str(tmp_path))
    code, _, err = command("demo", "--quick", "--data", data_root, "--port", free_port)
    assert code == 0, err
    assert "943 users, 1,678 items, 100,000 events" in err
    assert f"serve: http://127.0.0.1:{free_port}" in err
    assert err.count("→") == 10, "five titles for each of two users"
    run = raysys.load("movielens@champion")
    report = run.reports[-1]
    ratio = run.record.test["next_item.ndcg@10"] / report["baselines"]["popularity"]["next_item.ndcg@10"]["mean"]
    assert ratio > 1.2, f"NDCG@10 is {ratio:.2f} times popularity's"
    assert run.record.test["rating.rmse"] < report["baselines"]["training_mean"]["rating.rmse"]["mean"]
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    exec(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1])  # what README shows works on what the demo made
    best = next((tmp_path / "studies" / "movielens").glob("*/best.yaml"))
    assert read_yaml(best)["weighting"]["weights"] == run.config.weighting.weights
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0, "the demo left its endpoint up"


def test_without_data_the_demo_says_so_and_generates_a_log(tmp_path, monkeypatch, capsys):
    from raysys.commands import demo, download

    monkeypatch.setenv("RAYSYS_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(download, "URL", "http://127.0.0.1:9/ml-100k.zip")
    monkeypatch.setattr(download.download_movielens, "__defaults__", ("http://127.0.0.1:9/ml-100k.zip",))
    source = demo._source(None, str(tmp_path))
    assert source["format"] == "synthetic"
    assert "generated log" in capsys.readouterr().err
