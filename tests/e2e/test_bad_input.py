"""Bad input: a clear message, exit code 2, and nothing half-written."""

import socket
from pathlib import Path

import pytest

LOG = "user_id,item_id,timestamp\n" + "".join(f"u{i % 7},i{i % 11},{1_700_000_000 + i}\n" for i in range(80))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory with a small log and its config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYSYS_ROOT", str(tmp_path / "store"))
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "ingest.yaml").write_text(
        "project: shop\npath: log.csv\nformat: delimited\ncolumns: {timestamp: timestamp}\n"
    )
    return tmp_path


def _nothing_was_written(folder: Path) -> bool:
    store = folder / "store"
    return not store.exists() or not [path for path in store.rglob("*") if path.is_file()]


CONFIGS = {
    "unknown key": ("project: shop\npath: log.csv\nformat: delimited\nsplits: {}\n", "did you mean 'split'"),
    "wrong type": ("project: shop\npath: log.csv\nformat: delimited\nmax_rejected: much\n", "max_rejected"),
    "unknown format": ("project: shop\npath: log.csv\nformat: parket\n", "did you mean 'parquet'"),
    "unknown split": ("project: shop\npath: log.csv\nformat: delimited\nsplit: {kind: tme}\n", "did you mean 'time'"),
    "broken YAML": ("project: [shop\n", "not valid YAML"),
    "not a mapping": ("- project\n", "mapping"),
    "no source": ("project: shop\n", "sources"),
    "missing file": ("project: shop\npath: nowhere.csv\nformat: delimited\n", "nowhere.csv: no such file"),
    "missing variable": ("project: shop\npath: '${NOT_SET_ANYWHERE}/x'\nformat: delimited\n", "NOT_SET_ANYWHERE"),
    "secret in the config": (
        "project: shop\npath: log.csv\nformat: delimited\npseudonymise: {key: hunter2hunter2hunter2}\n",
        "the secret itself must not stand in a config",
    ),
    "label without a window": (
        "project: shop\npath: log.csv\nformat: delimited\nlabels: {buy: {on: view}}\n",
        "labels.buy.within: Field required",
    ),
    "missing plugin": ("project: shop\npath: log.csv\nformat: delimited\nplugins: [no_such]\n", "no_such"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_bad_ingest_config_is_refused(case, folder, command):
    text, expected = CONFIGS[case]
    (folder / "bad.yaml").write_text(text)
    code, out, err = command("ingest", "bad.yaml")
    assert code == 2
    assert expected in err
    assert "bad.yaml" in err or "nowhere.csv" in err
    assert "Traceback" not in err
    assert out == ""
    assert _nothing_was_written(folder)


def test_a_key_that_is_not_set_is_told_before_anything_is_read(folder, command, monkeypatch):
    monkeypatch.delenv("SHOP_KEY", raising=False)
    code, _, err = command("ingest", "ingest.yaml", "--set", "pseudonymise.key=env SHOP_KEY")
    assert code == 2
    assert "$SHOP_KEY is not set" in err
    assert "Traceback" not in err
    assert _nothing_was_written(folder)


def test_a_column_that_a_log_cannot_do_without_is_not_dropped(folder, command):
    code, _, err = command("ingest", "ingest.yaml", "--set", "drop=[item_id]")
    assert code == 2
    assert "drop: 'item_id' is the column of columns.item_id" in err
    assert _nothing_was_written(folder)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", "the file is empty"),
        ("user_id,item_id,timestamp\n", "the log is empty"),
        ("user_id,item_id,timestamp\n,i1,1700000000\nu1,,1700000000\nu1,i1,yesterday\n", "no row is good"),
        ("user,item\nu1,i1\n", "there is no column 'user_id'"),
        ("user_id,item_id,timestamp\nu1,i1,1700000000\nu1,i2\n", "rejected (malformed_line 1)"),
    ],
    ids=["empty file", "header only", "only bad rows", "other columns", "too many bad rows"],
)
def test_a_bad_log_is_refused(log, expected, folder, command, ray_cluster):
    (folder / "log.csv").write_text(log)
    code, _, err = command("ingest", "ingest.yaml")
    assert code == 2
    assert expected in err
    assert _nothing_was_written(folder)


TRAIN = {
    "unknown key": ("modle: {}", "did you mean 'model'"),
    "nested unknown key": ("model: {widht: 4}", "did you mean 'width'"),
    "wrong type": ("optimizer: {learning_rate: fast}", "optimizer.learning_rate"),
    "out of range": ("model: {dropout: 1.5}", "model.dropout"),
    "unknown backbone": ("model: {backbone: {kind: sasrek}}", "did you mean 'sasrec'"),
    "unknown task": ("tasks: {next_itm: {}}", "did you mean 'next_item'"),
    "unknown loss": ("tasks: {next_item: {loss: {kind: bpp}}}", "did you mean 'bpr'"),
    "a loss without that key": ("tasks: {next_item: {loss: {kind: bce, logq: true}}}", "unknown key 'logq'"),
    "cold temperature": ("tasks: {next_item: {temperature: 0}}", "tasks.next_item.temperature"),
    "unknown optimizer": ("optimizer: {kind: adamm}", "did you mean 'adam"),
    "unknown baseline": ("evaluation: {baselines: {itemnn: {}}}", "did you mean 'itemknn'"),
    "no users to evaluate": ("evaluation: {max_users: 0}", "evaluation.max_users"),
    "no parts": ("training: {accumulate: 0}", "training.accumulate"),
    "unknown precision": ("training: {precision: float16}", "training.precision"),
    "a name that no task can have": ("tasks: {items: {kind: next_item}}", "cannot be called 'items'"),
    "unknown parent": ("start_from: shop@champion", "no such alias"),
    "no dataset": ("dataset: elsewhere", "elsewhere: no such dataset"),
    "not a dataset": ("dataset: .", "not a dataset"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_a_bad_train_config_is_refused(case, folder, command):
    text, expected = TRAIN[case]
    (folder / "train.yaml").write_text(f"project: shop\n{text}\n")
    code, _, err = command("train", "train.yaml")
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert _nothing_was_written(folder)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("train", "nowhere.yaml"), "no such config file"),
        (("train",), "CONFIG"),
        (("train", "--resume", "."), "not a run directory"),
        (("evaluate", "nobody@champion"), "no such alias"),
        (("evaluate", "20200101-000000"), "no such directory, run id or project@alias"),
        (("evaluate", "."), "not a run"),
        (("evaluate",), "name a RUN"),
        (("recommend", ".", "-o", "x.parquet"), "not a run"),
        (("runs", "show", "."), "not a run"),
        (("runs", "rollback", "shop@champion"), "no earlier run"),
        (("data", "show", "."), "not a dataset"),
        (("data", "show", "nowhere"), "no such dataset"),
        (("data", "forget", ".", "u1"), "not a dataset directory"),
        (("ingest", "ingest.yaml", "--append"), "no such dataset"),
        (("init", "nowhere"), "no such file"),
        (("schema", "trian"), "did you mean 'train'"),
        (("ingest", "ingest.yaml", "--set", "max_rejected"), "PATH=VALUE"),
        (("ingest", "ingest.yaml", "--set", "project.name=x"), "plain value"),
        (("ingest", "ingest.yaml", "-o", "log.csv"), "not a dataset directory"),
        (("serve", "."), "not a run"),
        (("tune", "nowhere.yaml"), "no such config file"),
        (("submit", "--address", "http://127.0.0.1:9", "doctor"), "no Ray dashboard answers"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_arguments_are_refused(line, expected, folder, command):
    code, _, err = command(*line)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert _nothing_was_written(folder)


def test_an_unknown_verb_is_refused(command):
    code, _, err = command("recomend")
    assert code == 2
    assert "No such command" in err


@pytest.mark.cluster
def test_a_busy_port_is_refused_before_anything_starts(tiny_run, store, command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = command("serve", tiny_run.path, "--port", port, "--root", store)
    assert code == 2
    assert str(port) in err
