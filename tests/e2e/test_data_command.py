"""raysys data: what people see of a dataset, through the command."""

import json

import pytest

from raysys.configfile import build
from raysys.contracts.conftest import in_process
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, new_version
from raysys.data.inventory import take_inventory
from raysys.data.line import run_passes
from raysys.data.passes.plan import Plan
from raysys.data.privacy import pseudonym

KEY = "a secret of more than sixteen characters"
LOG = "user_id,item_id,timestamp,event,rating,price,device\n" + "".join(
    f"u{at % 7},i{at % 11},{1_700_000_000 + 3600 * at},{'view' if at % 3 else 'buy'},{at % 5 if at % 3 else ''},"
    f"{at}.5,{'phone' if at % 2 else '[bold]tablet'}\n"
    for at in range(200)
)
BROKEN = ",i1,1700000000,view,,,\nu1,\x1b[31mi1,soon,view,,,\n"
LATE = "u1,never seen in training,1700800000,buy,,,\n"


def _make(folder, **more):
    (folder / "log.csv").write_text(LOG + BROKEN + LATE)
    (folder / "users.csv").write_text("user_id,age\n" + "".join(f"u{at},{20 + at}\n" for at in range(6)))
    (folder / "items.csv").write_text("item_id,title\n" + "".join(f"i{at},Thing [red]{at}[/]\n" for at in range(9)))
    node = {
        "project": "shop",
        "path": str(folder / "log.csv"),
        "format": "delimited",
        "columns": {
            "timestamp": "timestamp",
            "event": "event",
            "labels": {"rating": "rating"},
            "numbers": {"price": "price"},
            "categories": {"device": "device"},
        },
        "items": {"path": str(folder / "items.csv")},
        "users": {"path": str(folder / "users.csv"), "numbers": ["age"]},
        "split": {"kind": "time", "valid_from": "2023-11-20", "test_from": "2023-11-22"},
        "history": ["buy"],
        **more,
    }
    config = build(IngestConfig, node, "test")
    inventory = take_inventory(config, None)
    plan = Plan(
        config=config,
        version=new_version(folder / "dataset"),
        pieces=inventory.pieces,
        user_pieces=inventory.user_pieces,
        units=inventory.units,
        fields=inventory.fields,
        now_ms=2**62,
        secret=config.pseudonymise.secret() if config.pseudonymise else None,
    )
    return run_passes(plan, inventory, in_process)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop with two bad rows and an item that training never saw."""
    return _make(tmp_path_factory.mktemp("shop"))


def test_show_tells_what_became_of_every_row(shop, command):
    code, out, err = command("data", "show", shop.path, "--json")
    assert code == 0, err
    facts = json.loads(out)
    rows = facts["rows"]
    assert rows["read"] == 203
    assert rows["read"] == rows["kept"] + sum(rows["rejected"].values()) + sum(rows["cleaned"].values())
    assert rows["rejected"] == {"missing_user": 1, "unreadable_time": 1}
    assert [stage["event"] for stage in facts["funnel"]] == ["view", "buy"]
    assert sum(sum(counts) for counts in facts["times"]["events"].values()) == facts["events"]
    assert facts["outside"] == 1
    assert facts["user_features"]["age"]["covered"] == pytest.approx(6 / 7)


def test_show_is_readable_and_obeys_nothing_in_the_log(shop, command):
    code, out, err = command("data", "show", shop.path)
    assert code == 0, err
    assert "rejected: missing_user" in out
    shown = [line.split()[:2] for line in out.splitlines()]
    assert ["view", "no"] in shown
    assert ["buy", "yes"] in shown
    assert "[bold]tablet" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 120


def test_show_writes_a_page(shop, command, tmp_path):
    code, out, err = command("data", "show", shop.path, "--html", tmp_path / "page.html")
    assert code == 0, err
    assert out.strip() == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "missing_user" in text
    assert "valid from 2023-11-20" in text
    code, _, err = command("data", "show", shop.path, "--html", tmp_path)
    assert (code, "is a directory" in err) == (2, True)


def test_sample_shows_a_user_in_order(shop, command):
    code, out, err = command("data", "sample", shop.path, "--user", "u1", "--events", 40)
    assert code == 0, err
    assert "user u1: 30 events" in out
    assert "age 21" in out
    assert "Thing [red]8[/] (i8)" in out
    assert "(outside the vocabulary)" in out
    assert "[bold]tablet" in out
    lines = [line for line in out.splitlines() if line.startswith("2023-")]
    assert len(lines) == 30
    times = [line[:19] for line in lines]
    assert times == sorted(times)
    marks = [line.split()[-1] for line in lines if line.split()[-1] in ("valid", "test")]
    assert marks == sorted(marks, key=("valid", "test").index)
    assert set(marks) == {"valid", "test"}


def test_sample_shows_the_newest_events_of_some_users(shop, command):
    code, out, err = command("data", "sample", shop.path, "--users", 2, "--events", 5)
    assert code == 0, err
    assert out.count("user u") == 2
    assert len([line for line in out.splitlines() if line.startswith("2023-")]) == 10
    assert "earlier events are not shown" in out


def test_a_user_that_is_not_there(shop, command):
    code, _, err = command("data", "sample", shop.path, "--user", "nobody")
    assert code == 2
    assert "no such user" in err


def test_a_pseudonymised_user_is_found_by_the_real_id_when_the_key_is_set(tmp_path, command, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", KEY)
    dataset = _make(tmp_path, pseudonymise={"key": "env SHOP_KEY"})
    name = pseudonym("u1", build(IngestConfig, dataset.manifest.config, "test").pseudonymise.secret())
    for given in ("u1", name):
        code, out, err = command("data", "sample", dataset.path, "--user", given)
        assert code == 0, err
        assert f"user {name}" in out
    monkeypatch.setenv("SHOP_KEY", KEY + "!")
    code, _, err = command("data", "sample", dataset.path, "--user", "u1")
    assert (code, "another key" in err) == (2, True)
    monkeypatch.delenv("SHOP_KEY")
    code, _, err = command("data", "sample", dataset.path, "--user", "u1")
    assert (code, "$SHOP_KEY" in err) == (2, True)
    code, out, err = command("data", "sample", dataset.path, "--user", name)
    assert (code, f"user {name}" in out) == (0, True)


def test_versions_name_the_files_that_were_read(tmp_path, command):
    first = _make(tmp_path)
    second = _make(tmp_path, history=["view"])
    code, out, err = command("data", "versions", tmp_path / "dataset", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [one["version"] for one in found] == [first.manifest.version, second.manifest.version]
    assert [file["path"] for file in found[0]["files_read"]] == [str(tmp_path / "log.csv")]
    assert found[0]["fingerprint"] != found[1]["fingerprint"]
    code, out, err = command("data", "versions", tmp_path / "dataset")
    assert code == 0, err
    assert "v0001" in out
    assert "v0002" in out
    assert Dataset.open(tmp_path / "dataset").manifest.version == "v0002"


def test_versions_of_what_is_no_dataset(tmp_path, command):
    code, _, err = command("data", "versions", tmp_path)
    assert code == 2
    assert "not a dataset" in err
