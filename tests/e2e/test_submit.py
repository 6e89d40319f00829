"""Verbs as Ray jobs on a local cluster: directory packed, log followed, exit code kept."""

import pytest

pytestmark = pytest.mark.cluster


@pytest.fixture
def job(ray_cluster, command, tmp_path, monkeypatch):
    """Submit a command line from an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def run(*line):
        return command("submit", "--address", f"http://{ray_cluster}", *line)

    return run


def test_a_verb_runs_as_a_job_and_its_log_comes_back(job, tmp_path):
    (tmp_path / "ingest.yaml").write_text("project: tiny\nformat: synthetic\nnum_users: 20\nnum_items: 10\n")
    code, out, err = job("ingest", "ingest.yaml", "--dry-run", "--json")
    assert code == 0, out + err
    assert '"project": "tiny"' in out, "the config travelled with the directory, and the log came back"


def test_a_users_mistake_comes_back_as_exit_code_2(job):
    code, out, _ = job("train", "nowhere.yaml")
    assert code == 2
    assert "no such config file" in out
