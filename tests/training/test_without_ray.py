"""A GPU box need not have Ray: one worker trains there all the same."""

import sys

import pytest

from raysys.training.fit import train


def test_one_worker_trains_where_there_is_no_ray(config_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError):
        import ray  # noqa: F401
    run = train(config_of(root=str(tmp_path)), output=str(tmp_path / "run"))
    assert run.record.epochs == 3
    assert run.record.test["next_item.ndcg@10"] > 0
    assert "ray" not in run.record.versions
    assert (run.path / "report.html").is_file()
