"""raysys serve before anything starts: configs, plans and refusals."""

import asyncio
import json
import shutil
import socket
import warnings
from pathlib import Path

import pytest
import torch

from raysys.configfile import build, dump_yaml, read_yaml
from raysys.errors import UserError
from serving.answers.question import Question
from serving.app import application, wait_ready
from serving.checks import settle_port
from serving.config import Autoscaling, ServeConfig

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "movielens-100k" / "serve.yaml"
OTHER = {
    "host": "localhost",
    "port": 8001,
    "k": 9,
    "k_max": 99,
    "threads": 2,
    "store": {"path": "elsewhere.sqlite"},
    "limits": {"batch": 8},
    "retrieval": {"kind": "exact"},
    "ranking": {"candidates": 50},
    "rules": [{"kind": "pin", "items": ["i1"], "slot": 1}],
    "access": {"keys": "keys.json"},
    "tls": {"certificate": "certificate.pem", "key": "key.pem"},
    "num_cpus": 0.5,
    "request_timeout_s": 29.0,
    "autoscaling": {"max_replicas": 3},
    "scorer": {"num_cpus": 0.5},
}


@pytest.mark.parametrize("name", [name for name in ServeConfig.model_fields if name != "start_timeout_s"])
def test_every_setting_reaches_ray_serve(tiny_run, name):
    changed = build(ServeConfig, {name: OTHER[name]}, "serve")
    assert application(tiny_run, changed) != application(tiny_run, ServeConfig())


@pytest.mark.parametrize("name", Autoscaling.model_fields)
def test_every_autoscaling_setting_reaches_ray_serve(tiny_run, name):
    usual = application(tiny_run, ServeConfig(autoscaling=Autoscaling(max_replicas=9)))
    value = getattr(Autoscaling(), name) + 1
    changed = application(tiny_run, ServeConfig(autoscaling=Autoscaling(**{"max_replicas": 9, name: value})))
    assert changed != usual


@pytest.mark.parametrize("node", [{"num_gpus": 1}, {"num_cpus": 3}, {"autoscaling": {"max_replicas": 9}}])
def test_every_setting_of_scorers_reaches_ray_serve(tiny_run, node):
    usual, changed = (build(ServeConfig, {"scorer": one}, "serve") for one in ({}, node))
    assert application(tiny_run, changed) != application(tiny_run, usual)


@pytest.mark.parametrize("scorer", [None, {}])
def test_only_the_user_config_tells_runs_apart(tiny_run, orphan_run, scorer):
    one, other = (application(run, ServeConfig(scorer=scorer)) for run in (tiny_run, orphan_run))
    for described in (one, other):
        for deployment in described["applications"][0]["deployments"]:
            assert deployment.pop("user_config")
    assert one == other  # anything else would restart the replicas


@pytest.mark.parametrize(("scorer", "names"), [(None, ["Replica"]), ({"num_gpus": 0.5}, ["Replica", "Scorer"])])
def test_ray_serve_takes_the_description(tiny_run, scorer, names):
    schema = pytest.importorskip("ray.serve.schema").ServeDeploySchema
    described = schema.model_validate(application(tiny_run, ServeConfig(port=8002, scorer=scorer)))
    assert described.http_options.port == 8002
    assert described.applications[0].import_path == "serving.app:build"
    assert [one.name for one in described.applications[0].deployments] == names


def test_a_step_of_load_is_seen_before_it_may_be_followed(tiny_run):
    scaling = pytest.importorskip("ray.serve.config").AutoscalingConfig
    described = application(tiny_run, ServeConfig(scorer={}))["applications"][0]["deployments"]
    for deployment in described:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # how Ray says that it looks back less far than it measures
            taken = scaling.model_validate(deployment["autoscaling_config"])
        assert taken.metrics_interval_s < taken.upscale_delay_s
        assert taken.look_back_period_s > 2 * taken.metrics_interval_s


def test_threads_are_those_of_the_model(tiny_run, serve, tmp_path, monkeypatch):
    for threads in (1, 2):
        service = serve(tiny_run, tmp_path, threads=threads)
        monkeypatch.setattr(service.answerer.retrieval, "answers", lambda questions: [torch.get_num_threads()])
        assert asyncio.run(service.answer(Question())) == threads


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"prot": 1}, "did you mean 'port'"),
        ({"k": 50, "k_max": 20}, "k \\(50\\) must be at most k_max \\(20\\)"),
        ({"port": 70000}, "port"),
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "must be at least min_replicas"),
        ({"autoscaling": {"min_replicas": 0}}, "min_replicas"),
    ],
)
def test_bad_configs_are_refused(node, told):
    with pytest.raises(UserError, match=told):
        build(ServeConfig, node, "serve.yaml")


def test_the_example_is_a_config():
    assert build(ServeConfig, read_yaml(EXAMPLE), str(EXAMPLE)).k == 10


def test_a_dry_run_tells_and_does_nothing(tiny_run, command):
    options = ["--config", EXAMPLE, "--port", 0, "--set", "autoscaling.max_replicas=5", "--dry-run", "--json"]
    code, out, err = command("serve", tiny_run.path, *options)
    assert code == 0, err
    plan = json.loads(out)
    assert plan["run"] == tiny_run.record.run_id
    assert (plan["users"], plan["replicas"]) == (300, "1 to 5")


def test_without_keys_it_listens_on_this_machine_only(tiny_run, command):
    options = ["--port", 0, "--no-auth", "--dry-run", "--json"]
    code, out, err = command("serve", tiny_run.path, *options)
    assert (code, json.loads(out)["keys"]) == (0, "not asked for"), err
    code, out, err = command("serve", tiny_run.path, "--host", "0.0.0.0", *options)
    assert (code, out) == (2, "")
    assert "without keys only this machine may ask, not 0.0.0.0" in err


def test_a_busy_port_is_refused_before_anything_starts(tiny_run, command, monkeypatch):
    monkeypatch.setattr("raysys.cluster.connected", lambda *_: pytest.fail("Ray was asked for"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = command("serve", tiny_run.path, "--port", port)
    assert (code, out) == (2, "")
    assert f"{port} on 127.0.0.1 is in use" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no-such-run"], "no such directory, run id or project@alias"),
        (["."], "not a run"),
        (["RUN", "--set", "k=0"], "k: Input should be greater than or equal to 1"),
        (["RUN", "--config", "missing.yaml"], "no such config file"),
        (["RUN", "--host", "192.0.2.1", "--port", "0"], "cannot listen on 192.0.2.1"),
        (["RUN", "--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid"),
    ],
)
def test_bad_input_ends_with_two(tiny_run, tmp_path, monkeypatch, command, arguments, told):
    monkeypatch.chdir(tmp_path)
    code, out, err = command("serve", *(tiny_run.path if argument == "RUN" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert told in err


def test_a_run_that_cannot_retrieve_is_refused(tiny_run, tmp_path, command):
    path = shutil.copytree(tiny_run.path, tmp_path / "ratings-only")
    config = read_yaml(path / "config.yaml")
    del config["tasks"]["next_item"]
    (path / "config.yaml").write_text(dump_yaml(config))
    code, _, err = command("serve", path, "--port", 0)
    assert code == 2
    assert "retrieves items" in err


def test_what_a_replica_refuses_comes_out_as_its_message(monkeypatch):
    text = "Traceback: ...\nraysys.errors.UserError: /gone: not a run (no run.json)\n\nThe deployment failed."
    monkeypatch.setattr("serving.app._state", lambda: ("DEPLOY_FAILED", text))
    with pytest.raises(UserError, match=r"^/gone: not a run \(no run.json\)$"):
        wait_ready("http://127.0.0.1:1", "run", 5)
    monkeypatch.setattr("serving.app._state", lambda: ("DEPLOY_FAILED", "FileNotFoundError: model.safetensors"))
    with pytest.raises(RuntimeError, match=r"model\.safetensors"):
        wait_ready("http://127.0.0.1:1", "run", 5)


def test_waiting_ends(monkeypatch):
    monkeypatch.setattr("serving.app._state", lambda: ("DEPLOYING", "1 replica waits for CPUs"))
    with pytest.raises(UserError, match=r"start_timeout_s: not ready after 0\.1 s .*waits for CPUs"):
        wait_ready("http://127.0.0.1:1", "run", 0.1)


def test_port_zero_takes_a_free_one():
    assert settle_port(ServeConfig(port=0)).port > 0
