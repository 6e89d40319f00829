"""Nothing of a held-out period is learned from; whatever would do so makes no dataset."""

from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ingested import assert_counted, digests, events_of
from shop_days import SPLIT, shop_days, source_at, write_day

from raysys.data.audit import LeakError, audit_catalog, audit_shard, taught
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow, write_arrow
from raysys.data.line import in_process
from raysys.data.schema import NEVER, Fields, Split, sequences_schema
from raysys.data.splitting import SPLITS, GlobalTime, LeaveOneOut
from raysys.data.vocabulary import Vocabulary

pytestmark = pytest.mark.thorough

SHIPPED = {
    "time": SPLIT,
    "shares": {"kind": "time"},
    "leave_one_out": {"kind": "leave_one_out"},
    "ratio": {"kind": "ratio"},
    "item_held_out": {**SPLIT, "kind": "item_held_out", "share": 0.3},
    "user_held_out": {"kind": "user_held_out", "valid_share": 0.2, "test_share": 0.2},
}


def wrong_split(base, marks):
    """A split as a plugin may bring it: of a base's kind, with marks of its own."""

    class Wrong(base):
        class Config(base.Config):
            kind: Literal["wrong"] = "wrong"

        def mark(self, lane):
            return marks(lane, super().mark(lane)).astype(np.int8)

    return Wrong


def by_chance(lane, marks):
    return np.random.default_rng(0).integers(0, 3, len(lane))


def backwards(lane, marks):
    return marks[::-1]


def one_falls(lane, marks):
    """Training goes on after the validation of the user with the longest line."""
    user = int(np.diff(lane.offsets).argmax())
    marks[lane.offsets[user] : lane.offsets[user + 1]] = 0
    marks[lane.offsets[user + 1] - 2] = 1
    return marks


def one_too_late(lane, marks):
    """One event of the validation period trains, with all before it."""
    first = np.flatnonzero((marks[:-1] == 0) & (marks[1:] == 1))[0] + 1
    marks[first] = 0
    return marks


@pytest.fixture
def shop(tmp_path, ingest_here):
    for day, frame in enumerate(shop_days()):
        write_day(frame, tmp_path / "log", day)
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(70)], "brand": [f"brand-{i}" for i in range(70)]})
    items.assign(title="t").to_csv(tmp_path / "items.csv", index=False)
    users = pd.DataFrame({"user_id": [f"user-{i:03d}" for i in range(30)], "city": [f"city-{i}" for i in range(30)]})
    users.to_csv(tmp_path / "users.csv", index=False)

    def run(output: str = "dataset", **node) -> Dataset:
        tables = {
            "items": {"path": str(tmp_path / "items.csv"), "categories": ["brand"]},
            "users": {"path": str(tmp_path / "users.csv"), "categories": ["city"]},
        }
        given = {
            "sources": [source_at(tmp_path / "log")],
            "history": ["click", "buy"],
            "events_per_shard": 200,
            **tables,
        }
        return ingest_here(output, **{**given, **node})

    return run


@pytest.mark.parametrize(
    ("base", "marks", "expected"),
    [
        (LeaveOneOut, by_chance, "an event of an earlier period follows one of a later"),
        (LeaveOneOut, backwards, "an event of an earlier period follows one of a later"),
        (LeaveOneOut, one_falls, "an event of an earlier period follows one of a later"),
        (GlobalTime, by_chance, "an event of an earlier period follows one of a later"),
        (GlobalTime, one_too_late, "an event is marked for another period than that of its time"),
    ],
)
def test_a_split_that_marks_wrongly_makes_no_dataset(shop, tmp_path, monkeypatch, base, marks, expected):
    monkeypatch.setitem(SPLITS, "wrong", wrong_split(base, marks))
    dates = {name: value for name, value in SPLIT.items() if name != "kind"} if base is GlobalTime else {}
    with pytest.raises(ValueError, match=rf"^leak audit: 0000\d\.arrow: {expected}"):
        shop(split={**dates, "kind": "wrong"})
    assert not (tmp_path / "dataset").exists()
    monkeypatch.setitem(SPLITS, "wrong", wrong_split(base, lambda lane, marks: marks))
    assert_counted(shop(split={**dates, "kind": "wrong"}))


def change(path, name: str, values) -> None:
    table = read_arrow(path)
    at = table.column_names.index(name)
    changed = table.set_column(
        at, table.schema.field(name), pc.cast(values(table[name]), table.schema.field(name).type)
    )
    content = pa.table({column: changed[column].combine_chunks() for column in changed.column_names})
    write_arrow(content, path)


def first_plus_one(column):
    values = column.to_numpy().copy()
    values[0] += 1
    return pa.array(values)


def first_held_out_met(column):
    values = column.to_numpy().copy()
    values[np.flatnonzero(values == NEVER)[0]] = 1_600_000_000_000
    return pa.array(values)


def other_id(column):
    return pa.array(["other", *column.to_pylist()[1:]])


TAMPERED = {
    "popularity": ("learn", "catalog.arrow", "popularity", first_plus_one, "popularity does not add up"),
    "a count": ("gather", "items/00000.arrow", "count", first_plus_one, "the vocabulary's counts are not those"),
    "a first time": ("gather", "items/00001.arrow", "first_time", first_plus_one, "the vocabulary's counts are not"),
    "an item": ("learn", "vocabulary.arrow", "item_id", other_id, "the vocabulary"),
    "a held-out item": ("gather", "items/00002.arrow", "first_time", first_held_out_met, "the vocabulary's counts"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_wrong_counts_make_no_dataset(shop, tmp_path, case):
    stage, file, column, values, expected = TAMPERED[case]

    def tampering(key, given, task, plan, name):
        given = list(given)
        in_process(key, given, task, plan, name)
        if name == stage and given:
            change(plan.version / file, column, values)

    first = shop(split=SPLIT, history=["buy"])
    before = digests(first)
    with pytest.raises(LeakError if case == "popularity" else ValueError, match=f"leak audit: .*{expected}") as caught:
        shop(split=SPLIT, each=tampering)
    assert "nothing is written" in str(caught.value)
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["v0001"]
    assert digests(Dataset.open(tmp_path / "dataset")) == before


def trained(frame: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """The rows of the log that are marked for training, found by user and time."""
    found = events_of(dataset)
    marks = dict(zip(zip(found["user"], found["time"], strict=True), found["mark"], strict=True))
    chosen = [marks.get((uid, ts * 1000)) == 0 for uid, ts in zip(frame["uid"], frame["ts"], strict=True)]
    return frame[chosen]


@pytest.mark.parametrize("case", SHIPPED)
def test_everything_that_is_learned_comes_from_training_events_alone(shop, case):
    dataset = shop(split=SHIPPED[case])
    frame = pd.concat(shop_days()).sort_values("ts")
    train = trained(frame, dataset)
    manifest = dataset.manifest
    assert 0 < len(train) == manifest.events_by_split["train"] < len(frame)
    first = train.groupby("sku")["ts"].min().reset_index().sort_values(["ts", "sku"])
    assert dataset.vocabulary.item_ids.to_pylist() == first["sku"].tolist()
    taken = train[train["what"].isin(["click", "buy"])]["sku"].value_counts()
    catalog = dataset.catalog.table
    assert catalog["popularity"].to_pylist() == [int(taken.get(sku, 0)) for sku in first["sku"]]
    brands = catalog["category.brand"].combine_chunks()
    assert brands.dictionary.to_pylist() == [f"brand-{sku[1:]}" for sku in first["sku"]]
    devices = train[train["device"] != ""].groupby("device")["ts"].min().sort_values().index.tolist()
    assert read_arrow(dataset.path / "categories" / "device.arrow")["item_id"].to_pylist() == devices
    cities = read_arrow(dataset.path / "users.arrow")["category.city"].combine_chunks().dictionary.to_pylist()
    users = train.groupby("uid")["ts"].min().sort_values().index
    assert cities == [f"city-{int(user[5:])}" for user in users]
    stars = train[train["stars"] != ""]["stars"].astype(float)
    assert manifest.label_means["rating"] == pytest.approx(stars.mean())
    events = events_of(dataset)
    for _, own in events.groupby("user", sort=False):
        assert (own["mark"].diff().dropna() >= 0).all()
    if case in ("time", "shares", "item_held_out"):
        later = events[events["mark"] > 0]
        assert later["time"].min() > events[events["mark"] == 0]["time"].max()
    if case == "item_held_out":
        assert manifest.cleaned["held_out_item"] == len(frame) - manifest.kept > 0
    if case == "user_held_out":
        held_out = events.groupby("user")["mark"].max() > 0
        assert (events[events["user"].isin(held_out[held_out].index)]["mark"] != Split.TRAIN).all()


ITEMS = pa.array(["a", "b"])
ALL = np.array([True])


def shard(tmp_path, rows: dict) -> tuple:
    """One user with these events as a file, what its training events teach, and the indices of these items."""
    given = {"user_id": ["u"], "events": [[0] * len(rows["items"])], **{name: [value] for name, value in rows.items()}}
    table = pa.table(given, schema=sequences_schema(Fields()))
    write_arrow(table, tmp_path / "shard.arrow")
    learned = taught(table, ITEMS, ALL)
    return tmp_path / "shard.arrow", learned, Vocabulary(ITEMS).encode(learned["item_id"]).to_numpy()


def test_the_audit_of_a_shard_counts_its_training_tokens(tmp_path):
    rows = {"items": [2, 3, 2, 1], "times": [1, 5, 5, 9], "marks": [0, 0, 1, 2]}
    given = shard(tmp_path, rows)
    assert audit_shard(*given, ITEMS, ALL, None) == 2
    learned = [{"item_id": "a", "first_time": 1, "count": 1}, {"item_id": "b", "first_time": 5, "count": 1}]
    assert given[1].to_pylist() == learned
    with pytest.raises(LeakError, match="counts are not those"):
        audit_shard(*given, ITEMS, np.array([False]), None)
    with pytest.raises(LeakError, match="another period"):
        audit_shard(*given, ITEMS, ALL, (5, 9))
    assert audit_shard(*shard(tmp_path, {**rows, "marks": [0, 1, 1, 2]}), ITEMS, ALL, (5, 9)) == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"items": [2, 2], "times": [1, 2], "marks": [1, 0]}, "an event of an earlier period follows"),
        ({"items": [2, 2], "times": [1, 2], "marks": [0, -1]}, "an event of an earlier period follows"),
        ({"items": [2, 2], "times": [2, 1], "marks": [0, 0]}, "not in the order of time"),
    ],
)
def test_the_audit_of_a_shard_refuses(tmp_path, rows, expected):
    with pytest.raises(LeakError, match=expected):
        audit_shard(*shard(tmp_path, rows), ITEMS, ALL, None)


def test_the_audit_of_a_shard_refuses_what_the_vocabulary_lacks(tmp_path):
    path, learned, indices = shard(tmp_path, {"items": [2, 1], "times": [1, 2], "marks": [0, 1]})
    with pytest.raises(LeakError, match="an item that was learned is not in the vocabulary"):
        audit_shard(path, learned, np.ones_like(indices), ITEMS, ALL, None)
    change(path, "marks", lambda _: pa.array([[0, 0]]))
    with pytest.raises(LeakError, match="a training event has an item that the vocabulary lacks"):
        audit_shard(path, learned, indices, ITEMS, ALL, None)


def test_the_audit_of_a_catalog_adds_up(tmp_path):
    audit_catalog(np.array([1, 2]), 3, tmp_path)
    with pytest.raises(LeakError, match="popularity does not add up"):
        audit_catalog(np.array([1, 2]), 4, tmp_path)


def test_an_empty_shard_is_sound(tmp_path):
    table = sequences_schema(Fields()).empty_table()
    write_arrow(table, tmp_path / "s.arrow")
    assert audit_shard(tmp_path / "s.arrow", taught(table, ITEMS, ALL), np.zeros(0, np.int32), ITEMS, ALL, (1, 2)) == 0
