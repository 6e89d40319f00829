"""From files to a dataset, compared with what pandas makes of the same files; a few times through Ray."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingested import assert_counted, digests, lines_of, rejected_of

import raysys
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, versions
from raysys.data.files import read_arrow
from raysys.data.inventory import describe
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, UNKNOWN, Split
from raysys.errors import UserError

MARKS = {0: "train", 1: "valid", 2: "test"}
COLUMNS = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "event": "what", "labels": {"rating": "stars"}}
LEAVE_ONE_OUT = {"kind": "leave_one_out"}


@pytest.fixture
def ingest(tmp_path, ray_cluster):
    """Ingest a config given by keywords on Ray, into a store of this test's own."""

    def run(**node) -> Dataset:
        return raysys.ingest({"project": "p", "root": str(tmp_path / "store"), **node})

    return run


def log(seed: int = 0, num_events: int = 500) -> pd.DataFrame:
    """A log without ties of time, so that no order of files can matter."""
    generator = np.random.default_rng(seed)
    events = generator.choice(["buy", "view"], num_events, p=[0.6, 0.4])
    return pd.DataFrame(
        {
            "uid": [f"u{i}" for i in generator.integers(0, 40, num_events)],
            "sku": [f"i{i}" for i in generator.geometric(0.01, num_events)],
            "ts": 1_600_000_000 + generator.permutation(num_events) * 1000,
            "what": events,
            "stars": np.where(generator.random(num_events) < 0.5, np.nan, generator.integers(1, 6, num_events)),
        }
    )


def write_parts(frame: pd.DataFrame, folder: Path, seed: int = 0, num_parts: int = 4) -> str:
    folder.mkdir(parents=True)
    shuffled = frame.sample(frac=1, random_state=seed)
    for number, places in enumerate(np.array_split(np.arange(len(frame)), num_parts)):
        shuffled.iloc[places].to_csv(folder / f"{(number * 7 + seed) % 10}.csv", index=False)
    return str(folder)


def source_at(path) -> dict:
    return {"format": "delimited", "path": str(path), "columns": COLUMNS}


def leave_one_out(events: pd.Series, history: tuple[str, ...]) -> np.ndarray:
    """Mark one user's events by how many history events come after each."""
    flags = events.isin(history).to_numpy()
    after = flags[::-1].cumsum()[::-1] - flags
    return np.where(flags.sum() < 3, 0, 2 - np.minimum(after, 2))


def expected_lines(frame: pd.DataFrame, history: tuple[str, ...]) -> tuple[dict[str, list[dict]], pd.DataFrame]:
    ordered = frame.sort_values("ts", kind="stable")
    ordered["mark"] = ordered.groupby("uid")["what"].transform(lambda events: leave_one_out(events, history))
    train = ordered[ordered["mark"] == 0]
    items = (
        train.assign(count=train["what"].isin(history)).groupby("sku").agg(first=("ts", "min"), count=("count", "sum"))
    )
    items = items.reset_index().sort_values(["first", "sku"]).reset_index(drop=True)
    known = set(items["sku"])
    lines = {
        user: [
            {
                "item": row.sku if row.sku in known else None,
                "event": row.what,
                "time": row.ts * 1000,
                "mark": row.mark,
                "rating": None if np.isnan(row.stars) else row.stars,
            }
            for row in own.itertuples()
        ]
        for user, own in ordered.groupby("uid")
    }
    return lines, items


@pytest.mark.cluster
def test_a_dataset_is_what_pandas_makes_of_the_log(ingest, ingest_here, tmp_path):
    frame = log()
    source = source_at(write_parts(frame, tmp_path / "log"))
    node = {"sources": [source], "history": ["buy"], "split": LEAVE_ONE_OUT, "events_per_shard": 120}
    dataset = ingest(**node)
    lines, items = expected_lines(frame, ("buy",))
    assert lines_of(dataset) == lines
    catalog = dataset.catalog.table
    assert dataset.vocabulary.item_ids.to_pylist() == catalog["item_id"].to_pylist() == items["sku"].tolist()
    assert catalog["popularity"].to_pylist() == items["count"].tolist()
    unseen = {sku for sku in frame["sku"] if sku not in set(items["sku"])}
    assert unseen, "the test needs items that only valid and test know"
    manifest = dataset.manifest
    marks = pd.Series([event["mark"] for line in lines.values() for event in line]).map(MARKS).value_counts()
    assert manifest.events_by_split == marks.to_dict()
    assert (manifest.event_names, manifest.history, manifest.labels) == (("buy", "view"), ("buy",), ("rating",))
    assert (manifest.num_events, manifest.rows, manifest.kept, manifest.rejected) == (500, 500, 500, {})
    ratings = [event["rating"] for line in lines.values() for event in line if event["mark"] == 0]
    assert manifest.label_means["rating"] == pytest.approx(np.mean([rating for rating in ratings if rating]))
    assert manifest.time_range == (frame["ts"].min() * 1000, frame["ts"].max() * 1000)
    assert manifest.config["sources"][0]["columns"]["labels"] == {"rating": "stars"}
    counts = dataset.rows.to_pandas()
    assert counts["train_tokens"].sum() == items["count"].sum()
    assert (counts["test_tokens"] <= 1).all()
    assert not (dataset.path / "staging").exists()
    assert_counted(dataset)
    here = ingest_here(**node)
    assert len(here.manifest.shards) > 3
    assert digests(here) == digests(dataset), "whoever runs the tasks, the bytes are the same"
    assert here.manifest.fingerprint == manifest.fingerprint


MESSY = """uid,sku,ts,stars
u1,a,1600000000,5
u1,b,1600000100,
,c,1600000200,3
u1,c,later,3
one field
u1,d,1600000300,good
u1,e,4000000000,1
u1,f,1600000400,2
"""
BROKEN = {4: "missing_user", 5: "unreadable_time", 6: "malformed_line", 7: "not_a_number", 8: "future_time"}
MESSY_COLUMNS = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "labels": {"rating": "stars"}}


@pytest.mark.cluster
def test_rejected_rows_are_kept_with_rule_file_and_row(ingest, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "good.csv").write_text(
        "uid,sku,ts,stars\n" + "".join(f"u2,a,{1600000000 + i},3\n" for i in range(60)) + "u2,a,1600000000,3\n"
    )
    (tmp_path / "log" / "messy.csv").write_text(MESSY)
    source = {"format": "delimited", "path": str(tmp_path / "log"), "columns": MESSY_COLUMNS}
    dataset = ingest(sources=[source], max_rejected=0.1, split=LEAVE_ONE_OUT)
    rejected = {(Path(row["source"]).name, row["row"]): row for row in rejected_of(dataset)}
    messy = {("messy.csv", row): rule for row, rule in BROKEN.items()}
    assert {place: row["rule"] for place, row in rejected.items()} == messy | {("good.csv", 62): "duplicate"}
    assert rejected["messy.csv", 6]["record"] == "one field"
    assert json.loads(rejected["messy.csv", 7]["record"])["label.rating"] == "good"
    copy = json.loads(rejected["good.csv", 62]["record"])
    assert (copy["user_id"], copy["item_id"], copy["timestamp"], copy["label.rating"]) == ("u2", "a", 1600000000000, 3)
    manifest = dataset.manifest
    assert (manifest.rows, manifest.kept) == (69, 63)
    assert manifest.rejected == dict.fromkeys([*BROKEN.values(), "duplicate"], 1)
    items = [event["item"] for event in lines_of(dataset)["u1"]]
    assert items == ["a", None, None], "b and f are held out only"
    assert_counted(dataset)


def click_source(path, columns: dict) -> dict:
    return {"format": "delimited", "path": str(path), "event": "click", "columns": columns}


BAD_LOGS = {
    "header only": ("uid,sku\n", {}, {}, r"log\.csv: the log is empty; nothing to ingest"),
    "no bytes": ("", {}, {}, r"log\.csv: the file is empty"),
    "no good row": ("uid,sku\n,a\nu,\nx\n", {}, {}, r"3 of 3 rows \(100\.0%\) are rejected .*no row is good"),
    "other columns": (
        "uidd,sku\nu,a\n",
        {},
        {},
        r"columns\.user_id: there is no column 'uid'; did you mean 'uidd'\? \(the file has: uidd, sku\)",
    ),
    "other history": (
        "uid,sku\nu,a\n",
        {},
        {"history": ["clik", "click"]},
        r"history: no event 'clik' in the logs; did you mean 'click'",
    ),
    "a label of nothing": (
        "uid,sku,ts\nu,a,1600000000\n",
        {"timestamp": "ts"},
        {"labels": {"buy": {"on": "click", "within": "1d"}}},
        r"labels\.buy: no event 'buy' in the logs \(found: click\)",
    ),
    "a label without times": (
        "uid,sku\nu,a\n",
        {},
        {"labels": {"buy": {"on": "click", "within": "1d"}}},
        r"labels: a join within a time needs a time for every event",
    ),
    "a split without times": (
        "uid,sku\nu,a\n",
        {},
        {"split": {"kind": "time", "valid_from": "2020-01-01", "test_from": "2021-01-01"}},
        "split: kind 'time' needs a time for every event",
    ),
    "the default split without times": ("uid,sku\nu,a\n", {}, {"split": {"kind": "time"}}, "needs a time"),
    "shares of one hour": (
        "uid,sku,ts\n" + "".join(f"u,{i},{1600000000 + i}\n" for i in range(9)),
        {"timestamp": "ts"},
        {"split": {"kind": "time"}},
        r"split: the log's events fall into too few hours \(1\)",
    ),
    "nothing to train on": (
        "uid,sku,ts\nu,a,1600000000\n",
        {"timestamp": "ts"},
        {"split": {"kind": "time", "valid_from": "2020-01-01", "test_from": "2021-01-01"}},
        "split: no event is left to train on",
    ),
    "ids in place of kinds": (
        "uid,sku,click_id\n" + "".join(f"u,a,{i}\n" for i in range(200)),
        {"event": "click_id"},
        {},
        r"event: the logs name 200 kinds of events .* at most 127",
    ),
    "a number that nobody has": (
        "uid,sku\nu,a\n",
        {},
        {"clean": {"fill": {"hour": 1}}},
        r"clean\.fill: the log has no number 'hour' \(it has none\)",
    ),
    "everybody is too short": (
        "uid,sku\nu,a\n",
        {},
        {"clean": {"min_user_events": 5}},
        "no event is left to train on",
    ),
}


@pytest.mark.parametrize("case", BAD_LOGS)
def test_a_log_that_makes_no_dataset_is_told_plainly_and_leaves_nothing(ingest_here, tmp_path, case):
    content, columns, node, expected = BAD_LOGS[case]
    (tmp_path / "log.csv").write_text(content)
    source = click_source(tmp_path / "log.csv", {"user_id": "uid", "item_id": "sku", **columns})
    with pytest.raises(UserError, match=expected):
        ingest_here(sources=[source], **{"split": LEAVE_ONE_OUT, **node})
    assert not (tmp_path / "dataset").exists()


@pytest.mark.cluster
@pytest.mark.parametrize("case", ["other columns", "a number that nobody has"])
def test_what_a_task_finds_is_told_without_tracebacks(ingest, tmp_path, capfd, case):
    content, columns, node, expected = BAD_LOGS[case]
    (tmp_path / "log.csv").write_text(content)
    source = click_source(tmp_path / "log.csv", {"user_id": "uid", "item_id": "sku", **columns})
    with pytest.raises(UserError, match=expected) as error:
        ingest(sources=[source], **{"split": LEAVE_ONE_OUT, **node})
    assert "Traceback" not in str(error.value)
    assert "ray::" not in str(error.value)
    assert capfd.readouterr().err.count("\n") <= 4, "the stages, and no tracebacks of Ray"
    assert not (tmp_path / "store" / "datasets" / "p").exists()


@pytest.mark.cluster
def test_a_failure_leaves_the_older_version_as_it_was(ingest, tmp_path):
    write_parts(log(1, 200), tmp_path / "log")
    source = source_at(tmp_path / "log")
    first = ingest(sources=[source])
    before = digests(first)
    (tmp_path / "log" / "broken.csv").write_text("uid,sku,ts,what,stars\n" + "nonsense\n" * 100)
    with pytest.raises(UserError, match="100 of 300 rows"):
        ingest(sources=[source])
    assert [path.name for path in first.path.parent.iterdir()] == ["v0001"]
    assert Dataset.open(first.path.parent).manifest == first.manifest
    assert digests(first) == before


def test_too_many_rejected_rows_fail_with_counts_and_leave_nothing(ingest_here, tmp_path):
    (tmp_path / "messy.csv").write_text(MESSY)
    source = {"format": "delimited", "path": str(tmp_path / "messy.csv"), "columns": MESSY_COLUMNS}
    with pytest.raises(UserError) as error:
        ingest_here(sources=[source])
    text = str(error.value)
    assert "5 of 8 rows (62.5%) are rejected" in text
    for rule in BROKEN.values():
        assert f"{rule} 1" in text
    assert "max_rejected is 5%" in text
    assert f"{tmp_path / 'messy.csv'}:6 malformed_line: one field" in text
    assert not (tmp_path / "dataset").exists()


def test_duplicates_count_among_the_rejected(ingest_here, tmp_path):
    rows = "".join(f"u{i},a,{1600000000 + i}\n" for i in range(20)) * 2
    (tmp_path / "log.csv").write_text("uid,sku,ts\n" + rows)
    source = click_source(tmp_path / "log.csv", {"user_id": "uid", "item_id": "sku", "timestamp": "ts"})
    with pytest.raises(UserError, match=r"50\.0% of 40 rows are rejected \(duplicate 20\), and max_rejected is 5%"):
        ingest_here(sources=[source], split=LEAVE_ONE_OUT)
    assert not (tmp_path / "dataset").exists()
    dataset = ingest_here(sources=[source], split=LEAVE_ONE_OUT, rules={"duplicates": False})
    assert (dataset.manifest.rows, dataset.manifest.kept) == (40, 40)


def test_neither_the_order_of_files_nor_the_number_of_shards_matters(ingest_here, tmp_path):
    frame = log()
    settings = {"history": ["buy"], "split": LEAVE_ONE_OUT}
    first = ingest_here("a", sources=[source_at(write_parts(frame, tmp_path / "one"))], **settings)
    parts = write_parts(frame, tmp_path / "two", seed=5, num_parts=7)
    other = ingest_here("b", sources=[source_at(parts)], events_per_shard=60, **settings)
    assert len(first.manifest.shards) == 1
    assert len(other.manifest.shards) > 5
    assert other.vocabulary.item_ids.equals(first.vocabulary.item_ids)
    assert other.catalog.table.equals(first.catalog.table)
    assert lines_of(other) == lines_of(first)
    assert other.manifest.fingerprint != first.manifest.fingerprint, "other shards, other rows: another dataset"


def test_the_same_config_again_keeps_the_version_and_new_events_make_another(ingest_here, tmp_path):
    frame = log(1, 200)
    write_parts(frame, tmp_path / "log")
    source = source_at(tmp_path / "log")
    first, again = ingest_here(sources=[source]), ingest_here(sources=[source])
    assert again.path == first.path
    assert again.manifest.fingerprint == first.manifest.fingerprint
    assert [path.name for path in versions(first.path.parent)] == ["v0001"]
    frame.tail(20).assign(uid="new").to_csv(tmp_path / "log" / "more.csv", index=False)
    more = ingest_here(sources=[source])
    assert more.path.name == more.manifest.version == "v0002"
    assert more.manifest.num_users == first.manifest.num_users + 1
    assert more.manifest.parent is None
    assert Dataset.open(first.path).manifest == first.manifest, "whoever trained on the old version still finds it"
    history = ingest_here(sources=[source], history=["buy"])
    assert history.path.name == "v0003", "other tokens, another dataset"


def test_a_split_by_shares_is_the_default_and_its_dates_are_kept(ingest_here, tmp_path):
    dataset = ingest_here(sources=[source_at(write_parts(log(2), tmp_path / "log"))])
    split = dataset.manifest.config["split"]
    assert (split["kind"], split["valid_share"], split["test_share"]) == ("time", 0.1, 0.1)
    bounds = [pd.Timestamp(split[name]).value // 1_000_000 for name in ("valid_from", "test_from")]
    for line in lines_of(dataset).values():
        assert [event["mark"] for event in line] == np.searchsorted(bounds, [e["time"] for e in line], "right").tolist()
    counts = dataset.manifest.events_by_split
    assert 0.07 < counts["valid"] / 500 < 0.13
    assert 0.07 < counts["test"] / 500 < 0.13
    assert all(bound % 3_600_000 == 0 for bound in bounds), "the nearest whole hours"


def test_sources_of_different_kinds_make_one_dataset(ingest_here, tmp_path):
    clicks = pd.DataFrame({"u": [1, 1, 2, 1, 2], "i": [10, 11, 10, 12, 13], "t": pd.to_datetime(range(5), unit="D")})
    clicks.to_parquet(tmp_path / "clicks.parquet")
    (tmp_path / "ratings.csv").write_text(
        "user_id,item_id,when,stars\n1,10,1970-01-01T12:00,5\n2,10,1970-01-03T12:00,1\n"
    )
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t"}
    rated = {"timestamp": "when", "labels": {"rating": "stars"}}
    path = str(tmp_path / "clicks.parquet")
    dataset = ingest_here(
        sources=[
            {"format": "parquet", "path": path, "event": "click", "columns": columns},
            {"format": "delimited", "path": str(tmp_path / "ratings.csv"), "event": "rating", "columns": rated},
        ],
        split={"kind": "time", "valid_from": "1970-01-04", "test_from": "1970-01-05"},
    )
    day = 86_400_000
    events = {
        user: [(e["item"], e["event"], e["time"], e["mark"], e["rating"]) for e in line]
        for user, line in lines_of(dataset).items()
    }
    assert events == {
        "1": [
            ("10", "click", 0, 0, None),
            ("10", "rating", day // 2, 0, 5.0),
            ("11", "click", day, 0, None),
            (None, "click", 3 * day, 1, None),
        ],
        "2": [
            ("10", "click", 2 * day, 0, None),
            ("10", "rating", 5 * day // 2, 0, 1.0),
            (None, "click", 4 * day, 2, None),
        ],
    }
    assert dataset.manifest.history == ("click", "rating"), "without a choice every event is history"
    assert dataset.manifest.events_by_split == {"train": 5, "valid": 1, "test": 1}


def test_the_retail_example_holds_its_four_tables(ingest_here):
    tables = ("impression", "click", "cart", "purchase")
    sources = [{"format": "synthetic", "table": name, "num_users": 200, "seed": 1} for name in tables]
    dataset = ingest_here(sources=sources, history=["click", "purchase"])
    assert dataset.manifest.event_names == tuple(sorted(tables))
    assert dataset.manifest.history == ("click", "purchase")
    assert dataset.manifest.labels == ()
    for line in lines_of(dataset).values():
        shown: set[str] = set()
        for event in line:
            if event["event"] == "impression":
                shown.add(event["item"])
            else:
                assert event["item"] in shown, f"{event['event']} of an item that had not been shown"


@pytest.mark.thorough
def test_movielens_100k_holds_out_nothing_that_training_knows(ingest_here, data_root):
    dataset = ingest_here(format="movielens", path=str(data_root / "movielens-100k"), split=LEAVE_ONE_OUT)
    names = ["uid", "sku", "stars", "ts"]
    frame = pd.read_csv(data_root / "movielens-100k" / "u.data", sep="\t", names=names, dtype={"uid": str, "sku": str})
    frame = frame.assign(position=range(len(frame))).sort_values(["ts", "position"])  # ties by place in the file
    frame["left"] = frame.groupby("uid").cumcount(ascending=False)
    train = frame[frame["left"] >= 2]
    manifest = dataset.manifest
    assert (manifest.num_users, manifest.num_events) == (943, 100_000)
    assert manifest.events_by_split == {"train": 100_000 - 2 * 943, "valid": 943, "test": 943}
    assert manifest.num_items == train["sku"].nunique() < frame["sku"].nunique()
    assert set(dataset.vocabulary.item_ids.to_pylist()) == set(train["sku"])
    catalog = dataset.catalog.table.to_pandas().set_index("item_id")
    counts = train["sku"].value_counts().sort_index()
    pd.testing.assert_series_equal(
        catalog["popularity"].sort_index(), counts, check_names=False, check_dtype=False, check_index_type=False
    )
    assert catalog.loc["50", "title"] == "Star Wars (1977)"
    assert "Action" in catalog.loc["50", "category.genres"]
    assert manifest.label_means["rating"] == pytest.approx(train["stars"].mean())
    lines = lines_of(dataset)
    known = set(train["sku"])
    for user, own in frame.groupby("uid"):
        assert [event["time"] for event in lines[user]] == (own["ts"] * 1000).tolist()
        assert [event["item"] for event in lines[user]] == [sku if sku in known else None for sku in own["sku"]]
        assert [event["mark"] for event in lines[user]] == [0] * (len(own) - 2) + [1, 2]
    reader = ShardReader(dataset)
    rows = reader.rows(np.arange(943))
    assert (rows.items[rows.marks == Split.TRAIN] >= FIRST_ITEM).all()
    assert (rows.items == UNKNOWN).sum() == len(frame[~frame["sku"].isin(known)])
    assert read_arrow(dataset.shard_paths[0]).schema.names[:2] == ["user_id", "items"]


def test_a_plan_is_described_without_reading(tmp_path):
    path = write_parts(log(), tmp_path / "log")
    node = {"project": "p", **source_at(path), "events_per_shard": 100}
    plan = describe(build(IngestConfig, node, "here"))
    size = sum(part.stat().st_size for part in Path(path).iterdir())
    assert (plan["pieces"], plan["files"]) == (4, 4)
    assert plan["source_bytes"] == size
    assert 400 < plan["rows"] < 600, "estimated from the first lines"
    assert plan["times"] == {path: "s"}
    assert plan["expected_disk_bytes"] >= size
    whole = describe(build(IngestConfig, {**node, "events_per_shard": 1_000_000}, "here"))
    assert whole["expected_memory_bytes"] > plan["expected_memory_bytes"]
    with pytest.raises(UserError, match="no such file or directory"):
        describe(build(IngestConfig, {**node, "path": str(tmp_path / "nothing")}, "here"))


def test_a_source_without_a_single_piece_is_an_empty_log(ingest_here, tmp_path):
    with pq.ParquetWriter(tmp_path / "x.parquet", pa.schema([("user_id", pa.string()), ("item_id", pa.string())])):
        pass
    with pytest.raises(UserError, match=r"x\.parquet: the log is empty; nothing to ingest"):
        ingest_here(format="parquet", path=str(tmp_path / "x.parquet"))
    assert not (tmp_path / "dataset").exists()


def test_two_ingestions_into_one_dataset_are_not_at_the_same_time(ingest_here, tmp_path):
    source = source_at(write_parts(log(), tmp_path / "log"))

    def second(key, values, task, plan, name):
        ingest_here(sources=[source])

    with pytest.raises(UserError, match="another process is writing this dataset"):
        ingest_here(sources=[source], each=second)
    assert not (tmp_path / "dataset").exists()
    assert ingest_here(sources=[source]).path.name == "v0001", "the lock is released"
