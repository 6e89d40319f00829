"""Pseudonyms in place of user ids, and columns that are dropped: neither leaves a trace in any file."""

import hashlib
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingested import assert_counted, contents, lines_of, rejected_of

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.privacy import Pseudonymise, key_check, pseudonym, pseudonyms
from raysys.data.schema import Split
from raysys.errors import UserError

KEY = "a secret of the tests alone"
SETTINGS = {"key": "env RAYSYS_TEST_KEY"}
START = 1_600_000_000
USERS = [f"person.{number}@mail.example" for number in range(12)]
SECRETS = [f"diagnosis-{number}" for number in range(12)]
LEAVE_ONE_OUT = {"kind": "leave_one_out"}


@pytest.fixture
def key(monkeypatch) -> bytes:
    monkeypatch.setenv("RAYSYS_TEST_KEY", KEY)
    return Pseudonymise(**SETTINGS).secret()


def rows(number: int) -> list[dict]:
    return [
        {
            "who": user,
            "item": f"i{(at + number) % 9}",
            "t": START + 1000 * at + number,
            "health": SECRETS[(at + number) % 12],
            "income": 7_654_321 + at,
            "device": "phone",
        }
        for at, user in enumerate(USERS * 4)
    ]


@pytest.fixture
def sources(tmp_path) -> list[dict]:
    """Logs of every text format and of parquet, each with good, bad and malformed rows."""
    columns = {"user_id": "who", "item_id": "item", "timestamp": "t", "time_unit": "s", "numbers": {"income": "income"}}
    columns["categories"] = {"health": "health", "device": "device"}
    good = rows(0)
    bad = [good[0] | {"t": "never"}, good[1] | {"item": ""}, good[2] | {"income": "much"}]
    frame = pd.DataFrame([*good, *bad])
    malformed = f"{USERS[3]},{SECRETS[3]}\n"
    (tmp_path / "a.csv").write_text(frame.to_csv(index=False) + malformed)
    lines = [json.dumps(row) for row in rows(1)] + [
        json.dumps(bad[0]),
        f'{{"who": "{USERS[4]}", "health": "{SECRETS[4]}"',
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
    lists = pd.DataFrame(
        [
            {
                "who": user,
                "item": ["x", "y"],
                "t": START + 50 + at,
                "health": SECRETS[at],
                "income": 1.0,
                "device": "desk",
            }
            for at, user in enumerate(USERS)
        ]
    )
    lists["device"] = [["phone", "desk"]] * 11 + [["phone"]]  # the last one is unequal
    lists.to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("".join(f"{user} x y z\n" for user in USERS[:4]) + f"{USERS[5]}\n")
    return [
        {"format": "delimited", "path": str(tmp_path / "a.csv"), "columns": columns},
        {"format": "jsonl", "path": str(tmp_path / "b.jsonl"), "columns": columns},
        {"format": "parquet", "path": str(tmp_path / "c.parquet"), "columns": columns},
        {"format": "sequences", "path": str(tmp_path / "d.txt")},
    ]


@pytest.fixture
def ingest_shop(ingest_here, sources, tmp_path):
    """Ingest all sources with a table of users that names them too."""
    table = pd.DataFrame(
        {"person": USERS, "city": [f"city-{at}" for at in range(12)], "salary": range(5_000_000, 5_000_012)}
    )
    table.to_csv(tmp_path / "users.csv", index=False)
    users = {"path": str(tmp_path / "users.csv"), "id": "person", "categories": ["city"], "numbers": ["salary"]}

    def run(output: str = "dataset", **node) -> Dataset:
        given = {
            "sources": sources,
            "users": users,
            "split": LEAVE_ONE_OUT,
            "max_rejected": 0.2,
            "events_per_shard": 60,
        }
        return ingest_here(output, **{**given, **node})

    return run


def test_the_test_would_see_what_it_looks_for(ingest_shop):
    written = contents(ingest_shop().path)
    assert all(user in written for user in USERS)
    assert all(secret in written for secret in SECRETS)


def test_no_file_holds_a_user_id(ingest_shop, key):
    dataset = ingest_shop(pseudonymise=SETTINGS)
    written = contents(dataset.path)
    assert [user for user in USERS if user in written] == []
    assert [user for user in USERS if user.partition("@")[0] in written] == []
    assert KEY not in written
    assert key.hex() not in written
    assert set(lines_of(dataset)) == {pseudonym(user, key) for user in USERS}
    assert dataset.manifest.rejected == {
        "malformed_line": 3,
        "unreadable_time": 2,
        "missing_item": 1,
        "not_a_number": 1,
        "unequal_lists": 1,
    }
    assert {row["record"] for row in rejected_of(dataset) if row["rule"] == "malformed_line"} == {None}
    assert_counted(dataset)
    features = read_arrow(dataset.path / "users.arrow").to_pylist()
    cities = {pseudonym(user, key): f"city-{at}" for at, user in enumerate(USERS)}
    assert {row["user_id"]: row["category.city"] for row in features} == cities, "the table names the same people"


def test_the_log_is_the_same_but_for_names(ingest_shop, key):
    plain, hidden = ingest_shop("plain"), ingest_shop("hidden", pseudonymise=SETTINGS)
    assert lines_of(hidden) == {pseudonym(user, key): line for user, line in lines_of(plain).items()}
    assert hidden.vocabulary.item_ids.equals(plain.vocabulary.item_ids)
    assert plain.manifest.key_check is None


def test_names_depend_on_the_key_alone(ingest_shop, monkeypatch, key):
    first, again = ingest_shop("first", pseudonymise=SETTINGS), ingest_shop("again", pseudonymise=SETTINGS)
    assert set(lines_of(first)) == set(lines_of(again))
    assert first.manifest.key_check == again.manifest.key_check == key_check(key)
    assert first.manifest.fingerprint == again.manifest.fingerprint
    monkeypatch.setenv("RAYSYS_TEST_KEY", KEY + "!")
    other = ingest_shop("other", pseudonymise=SETTINGS)
    assert not set(lines_of(first)) & set(lines_of(other))
    assert other.manifest.key_check != first.manifest.key_check


def test_messages_show_no_user_id(ingest_shop, key):
    with pytest.raises(UserError, match=r"rows .* are rejected") as caught:
        ingest_shop(pseudonymise=SETTINGS, max_rejected=0)
    assert [user for user in USERS if user in str(caught.value)] == []


@pytest.mark.parametrize(
    ("value", "state"), [(None, "is not set"), ("", "is not set"), ("short", "holds 5 characters")]
)
def test_without_a_key_nothing_is_read(ingest_shop, tmp_path, monkeypatch, value, state):
    monkeypatch.delenv("RAYSYS_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("RAYSYS_TEST_KEY", value)
    expected = rf"pseudonymise\.key: \$RAYSYS_TEST_KEY {state}; set it to a secret of at least 16 characters"
    with pytest.raises(UserError, match=expected):
        ingest_shop(pseudonymise=SETTINGS)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("given", [KEY, "env", "env A B", "ENV NAME", ""])
def test_a_key_in_the_config_itself_is_refused(given):
    with pytest.raises(UserError, match="the secret itself must not stand in a config"):
        build(IngestConfig, {"project": "p", "format": "synthetic", "pseudonymise": {"key": given}}, "test.yaml")


def test_a_pseudonym_is_keyed_blake2b():
    secret = hashlib.sha256(b"x").digest()
    expected = hashlib.blake2b("jürgen".encode(), key=secret, digest_size=16).hexdigest()
    assert pseudonym("jürgen", secret) == expected
    found = pseudonyms(pa.chunked_array([["jürgen", None], ["", "a", "jürgen"]]), secret).to_pylist()
    assert found == [expected, None, "", pseudonym("a", secret), expected]
    assert pseudonyms(pa.array([], pa.string()), secret).to_pylist() == []


def test_missing_users_stay_missing(ingest_here, tmp_path, key):
    lines = "".join(f"u1,i{at},{START + at}\n" for at in range(5)) + f",i1,{START}\n  ,i2,{START}\n"
    (tmp_path / "log.csv").write_text("user_id,item_id,t\n" + lines)
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "columns": {"timestamp": "t"}}
    dataset = ingest_here(sources=[source], split=LEAVE_ONE_OUT, pseudonymise=SETTINGS, max_rejected=0.5)
    assert dataset.manifest.rejected == {"missing_user": 2}
    assert set(lines_of(dataset)) == {pseudonym("u1", key)}


def test_ids_are_named_as_they_are_read(ingest_here, tmp_path, key):
    for name, ids in (("ints", [7, 7, 7, 7]), ("floats", [7.0] * 4), ("text", [" 7", "7 ", "7", "7"])):
        table = pa.table({"user_id": ids, "item_id": ["a", "b", "c", "d"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        source = {"format": "parquet", "path": str(tmp_path / f"{name}.parquet")}
        dataset = ingest_here(name, sources=[source], split=LEAVE_ONE_OUT, pseudonymise=SETTINGS)
        assert set(lines_of(dataset)) == {pseudonym("7", key)}


# Dropped columns


def test_no_file_holds_a_dropped_value(ingest_shop):
    dataset = ingest_shop(drop=["health", "income", "salary"])
    written = contents(dataset.path)
    assert [secret for secret in SECRETS if secret in written] == []
    assert "76543" not in written
    assert "diagnosis" not in written
    assert (dataset.manifest.numbers, set(dataset.manifest.categories)) == ((), {"device"})
    features = read_arrow(dataset.path / "users.arrow")
    assert features.column_names == ["user_id", "category.city"]
    assert_counted(dataset)
    kept = ingest_shop("kept")
    assert dataset.manifest.rejected["malformed_line"] == kept.manifest.rejected["malformed_line"]
    assert "not_a_number" not in dataset.manifest.rejected, "a dropped column is not even read"


def test_pseudonyms_and_dropped_columns_go_together(ingest_shop, key):
    written = contents(ingest_shop(drop=["health", "city"], pseudonymise=SETTINGS).path)
    assert [text for text in [*USERS, *SECRETS, "city-"] if text in written] == []


DROPPED = {
    "label": {"columns": {"labels": {"x": "secret"}}},
    "number": {"columns": {"numbers": {"x": "secret"}}},
    "category": {"columns": {"categories": {"x": "secret"}}},
    "item number": {"items": {"numbers": ["secret"], "categories": ["brand"]}},
    "item category": {"items": {"categories": ["secret", "brand"]}},
    "item text": {"items": {"text": ["secret"]}},
    "item title": {"items": {"title": "secret"}},
    "changing item": {"items": {"numbers": ["secret"], "categories": ["brand"], "timestamp": "since", "title": None}},
    "changing user": {"users": {"numbers": ["secret"], "categories": ["brand"], "timestamp": "since"}},
    "user category": {"users": {"categories": ["secret", "brand"]}},
}


@pytest.mark.parametrize("case", DROPPED)
def test_what_is_mapped_to_a_dropped_column_vanishes(ingest_here, tmp_path, case):
    node = json.loads(json.dumps(DROPPED[case]))
    values = range(9_870_001, 9_870_041)
    frame = pd.DataFrame(
        {"user_id": ["u1", "u2"] * 20, "item_id": [f"i{at % 7}" for at in range(40)], "secret": values}
    )
    frame.assign(t=[START + at for at in range(40)]).to_csv(tmp_path / "log.csv", index=False)
    for side, number in (("item", 7), ("user", 3)):
        ids = [f"{side[0]}{at}" for at in range(number)]
        table = pd.DataFrame(
            {f"{side}_id": ids, "secret": values[:number], "brand": "b", "since": START - 5, "title": "t"}
        )
        table.to_csv(tmp_path / f"{side}s.csv", index=False)
    columns = {"timestamp": "t", **node.pop("columns", {})}
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "columns": columns}
    tables = {name: {"path": str(tmp_path / f"{name}.csv"), **given} for name, given in node.items()}
    shown = ingest_here("shown", sources=[source], split=LEAVE_ONE_OUT, **tables)
    dataset = ingest_here(sources=[source], split=LEAVE_ONE_OUT, drop=["secret"], **tables)
    manifest = dataset.manifest
    assert not {"x", "user.secret", "item.secret"} & {*manifest.labels, *manifest.numbers, *manifest.categories}
    assert not [name for name in dataset.catalog.table.column_names if "secret" in name]
    told = contents(dataset.path).replace(json.dumps(["secret"]), "")
    assert "9870" not in told
    assert manifest.fingerprint != shown.manifest.fingerprint
    assert manifest.num_events == shown.manifest.num_events


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("item", r"drop: 'item' is the column of columns\.item_id; map another column, or keep it"),
        ("who", r"drop: 'who' is the column of columns\.user_id"),
        ("t", r"drop: 't' is the column of columns\.timestamp"),
        ("person", r"drop: 'person' is users\.id and cannot be dropped"),
    ],
)
def test_what_a_log_cannot_do_without_cannot_be_dropped(ingest_shop, tmp_path, column, expected):
    with pytest.raises(UserError, match=expected):
        ingest_shop(drop=[column])
    assert not (tmp_path / "dataset").exists()


def test_the_split_of_a_user_does_not_depend_on_dropped_columns(ingest_shop):
    marks = [
        {user: [event["mark"] for event in line] for user, line in lines_of(ingest_shop(name, drop=drop)).items()}
        for name, drop in (("kept", []), ("dropped", ["health"]))
    ]
    assert marks[0] == marks[1]
    assert {mark for line in marks[0].values() for mark in line} == {Split.TRAIN, Split.VALID, Split.TEST}
