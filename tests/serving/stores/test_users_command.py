"""raysys users, and what `raysys serve` loads by itself."""

import json

import pytest
import yaml

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM
from serving.config import ServeConfig
from serving.stores import Loaded
from serving.users.seeding import seed

pytestmark = pytest.mark.thorough


@pytest.fixture
def config(node, tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"store": node}))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset with labels, numbers and categories of events, some unknown, and features of users."""
    root = tmp_path_factory.mktemp("columns")
    lines = ["user,item,time,kind,stars,hour,page"]
    for user in range(40):
        for n in range(user % 9 + 1):
            stars = "" if n % 3 == 0 else f"{n % 5 + 0.5}"
            page = ["", "home", 'a""b', "ü,1"][(user + n) % 4]
            who = f"u{user},i{(user * 7 + n * 3) % 23},{1_600_000_000 + n * 60 + user}"
            lines.append(f'{who},{"see" if n % 4 == 3 else "buy"},{stars},{n / 3:.4f},"{page}"')
    (root / "log.csv").write_text("\n".join(lines) + "\n")
    (root / "users.csv").write_text("user_id,age,town\n" + "".join(f"u{n},{n},t{n % 3}\n" for n in range(0, 40, 2)))
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time", "time_unit": "s"}
    columns |= {"event": {"column": "kind", "map": {"see": "see", "buy": "buy"}}}
    columns |= {"labels": {"stars": "stars"}, "numbers": {"hour": "hour"}, "categories": {"page": "page"}}
    node = {
        "project": "columns",
        "root": str(root),
        "history": ["buy"],
        "sources": [{"path": str(root / "log.csv"), "format": "delimited", "columns": columns}],
        "users": {"path": str(root / "users.csv"), "id": "user_id", "numbers": ["age"], "categories": ["town"]},
        "split": {"kind": "leave_one_out"},
    }
    return ingest(build(IngestConfig, node, "columns"), root / "datasets" / "columns", each=in_process)


def test_load_show_delete(command, dataset, config, tmp_path):
    code, out, err = command("users", "load", dataset.path, "--config", config)
    assert code == 0, err
    assert out.startswith(f"{dataset.manifest.num_users} users in ")
    assert "bytes each" in out
    code, out, _ = command("users", "load", dataset.path, "--config", config, "--json")
    assert json.loads(out)["users"] == dataset.manifest.num_users
    assert json.loads(out)["bytes_per_user"] > 0
    code, out, _ = command("users", "show", "u8", "--of", dataset.path, "--config", config)
    assert code == 0
    assert "age: 8.0" in out
    assert command("users", "delete", "u8", "--of", dataset.path, "--config", config)[0] == 0
    for verb in ("show", "delete"):
        code, _, err = command("users", verb, "u8", "--of", dataset.path, "--config", config)
        assert (code, "nothing is kept" in err) == (2, True)


def test_what_is_loaded_is_what_the_dataset_holds(command, dataset, config):
    command("users", "load", dataset.path, "--config", config)
    reader = ShardReader(dataset, columns=True)
    for row, user in enumerate(reader.user_ids(_all(dataset)).to_pylist()):
        _, out, _ = command("users", "show", user, "--of", dataset.path, "--config", config, "--json")
        found = json.loads(out)
        assert found["events"] == _expected(dataset, reader, row)
        assert found["profile"]["row"] == row
        number = int(user[1:])
        features = {"age": float(number), "town": f"t{number % 3}"} if number % 2 == 0 else {}
        assert found["profile"]["features"] == features


def _all(dataset):
    import numpy as np

    return np.arange(dataset.manifest.num_users)


def _expected(dataset, reader, row):
    """The events of a user, one by one from the arrays."""
    rows, manifest = reader.rows(_all(dataset)[row : row + 1]), dataset.manifest
    pages = dataset.category_values("page").item_ids.to_pylist()
    found = []
    for at in range(len(rows.items)):
        kind = manifest.event_names[rows.events[at]]
        if rows.items[at] < FIRST_ITEM or kind not in manifest.history:
            continue
        labels = {name: pytest.approx(float(v[at])) for name, v in rows.labels.items() if v[at] == v[at]}
        context = {name: pytest.approx(float(v[at])) for name, v in rows.context.numbers.items() if v[at] == v[at]}
        if (code := rows.context.categories["page"][at]) >= FIRST_ITEM:
            context["page"] = pages[code - FIRST_ITEM]
        event = {"item_id": dataset.vocabulary.item_ids[int(rows.items[at]) - FIRST_ITEM].as_py(), "event": kind}
        event |= {"time": int(rows.times[at]), "labels": labels or None, "context": context or None}
        found.append(event | {"request_id": None, "slot": None})
    return found


def test_only_the_newest_are_loaded(command, dataset, config):
    arguments = ("--config", config, "--set", "store.max_events=2")
    command("users", "load", dataset.path, *arguments)
    reader = ShardReader(dataset, columns=True)
    for row, user in enumerate(reader.user_ids(_all(dataset)).to_pylist()):
        _, out, _ = command("users", "show", user, "--of", dataset.path, "--json", *arguments)
        assert json.loads(out)["events"] == _expected(dataset, reader, row)[-2:]


def test_serving_loads_its_own_store_alone(tiny_run, config, node, command, capsys, tmp_path):
    checked = ServeConfig(store=node)
    seed(tiny_run, checked)
    err = capsys.readouterr().err
    _, out, _ = command("users", "show", "u1", "--of", tiny_run.path, "--config", config, "--json")
    if node["kind"] == "redis":
        assert "`raysys users load` puts them in" in err
        assert out == ""
        assert command("users", "load", tiny_run.path, "--config", config)[0] == 0
        capsys.readouterr()
    else:
        assert "300 users" in err
        assert json.loads(out)["events"]
    seed(tiny_run, checked)
    assert capsys.readouterr().err == ""


def test_a_store_that_is_down_is_told(command, dataset):
    settings = ("--set", "store.kind=redis", "--set", "store.url=redis://127.0.0.1:1/0")
    code, _, err = command("users", "load", dataset.path, *settings)
    assert code == 2
    assert "error: store: it does not answer" in err


def test_secrets_are_not_taken_from_configs(command, dataset):
    settings = ("--set", "store.kind=redis", "--set", "store.url=redis://:pass-word@127.0.0.1:1/0")
    code, _, err = command("users", "load", dataset.path, *settings)
    assert code == 2
    assert "env NAME" in err
    assert "pass-word" not in err


def test_a_place_for_each_project(tiny_run, command, tmp_path):
    code, _, err = command("users", "load", Dataset.open(tiny_run.record.dataset).path, "--root", tmp_path)
    assert code == 0, err
    assert (tmp_path / "serving" / "tiny" / "state.sqlite").is_file()
    assert command("users", "show", "u1", "--of", tiny_run.record.dataset, "--root", tmp_path)[0] == 0


def test_an_earlier_dataset_does_not_replace_a_later_one_by_itself(tiny_run, tmp_path, command, capsys, of_stores):
    node = {"kind": "embedded", "path": str(tmp_path / "state.sqlite")}
    using, _ = of_stores
    later = Loaded("f" * 64, 1, 1 << 50)
    using(node, lambda store: store.set_loaded(later))
    seed(tiny_run, ServeConfig(store=node))
    assert "keeps the users of a later dataset" in capsys.readouterr().err
    assert using(node, lambda store: store.loaded()) == later
    using(node, lambda store: store.set_loaded(later._replace(until=0)))
    seed(tiny_run, ServeConfig(store=node))
    assert using(node, lambda store: store.count()) == 300
