"""From files to a dataset through Ray Data, compared with what pandas makes of the same files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raysys
from raysys.configfile import build
from raysys.data.batches import ShardReader
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, versions
from raysys.data.files import read_arrow
from raysys.data.ingest import describe
from raysys.data.schema import FIRST_ITEM, UNKNOWN, Split
from raysys.errors import UserError

MARKS = {0: "train", 1: "valid", 2: "test"}
COLUMNS = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "event": "what", "labels": {"rating": "stars"}}


@pytest.fixture
def ingest(tmp_path, ray_cluster):
    """Ingest a config given by keywords into a store of this test's own."""

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


def lines_of(dataset: Dataset) -> dict[str, list[tuple]]:
    """Every user's events: (item id, or None where training never saw it; event; ms; mark; labels)."""
    reader = ShardReader(dataset)
    names = np.array(dataset.manifest.event_names)
    rows = reader.rows(np.arange(dataset.manifest.num_users))
    ids = np.array([None, None, *dataset.vocabulary.item_ids.to_pylist()], dtype=object)
    labels = [rows.labels[name] for name in dataset.manifest.labels]
    found = {}
    for row, user in enumerate(reader.user_ids(rows.users).to_pylist()):
        span = slice(rows.offsets[row], rows.offsets[row + 1])
        columns = [ids[rows.items[span]], names[rows.events[span]], rows.times[span], rows.marks[span]]
        columns += [[None if np.isnan(value) else float(value) for value in values[span]] for values in labels]
        found[user] = list(zip(*(list(column) for column in columns), strict=True))
    assert len(found) == dataset.manifest.num_users
    return found


def leave_one_out(events: pd.Series, history: tuple[str, ...]) -> np.ndarray:
    """Mark one user's events by how many history events come after each."""
    flags = events.isin(history).to_numpy()
    after = flags[::-1].cumsum()[::-1] - flags
    return np.where(flags.sum() < 3, 0, 2 - np.minimum(after, 2))


def expected_lines(frame: pd.DataFrame, history: tuple[str, ...]) -> tuple[dict[str, list[tuple]], pd.DataFrame]:
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
            (
                row.sku if row.sku in known else None,
                row.what,
                row.ts * 1000,
                row.mark,
                None if np.isnan(row.stars) else row.stars,
            )
            for row in own.itertuples()
        ]
        for user, own in ordered.groupby("uid")
    }
    return lines, items


@pytest.mark.cluster
def test_a_dataset_is_what_pandas_makes_of_the_log(ingest, tmp_path):
    frame = log()
    path = write_parts(frame, tmp_path / "log")
    dataset = ingest(sources=[{"format": "delimited", "path": path, "columns": COLUMNS}], history=["buy"])
    lines, items = expected_lines(frame, ("buy",))
    assert lines_of(dataset) == lines
    catalog = dataset.catalog.table
    assert dataset.vocabulary.item_ids.to_pylist() == catalog["item_id"].to_pylist() == items["sku"].tolist()
    assert catalog["popularity"].to_pylist() == items["count"].tolist()
    unseen = {sku for sku in frame["sku"] if sku not in set(items["sku"])}
    assert unseen, "the test needs items that only valid and test know"
    manifest = dataset.manifest
    marks = pd.Series([event[3] for line in lines.values() for event in line]).map(MARKS).value_counts()
    assert manifest.events_by_split == marks.to_dict()
    assert (manifest.event_names, manifest.history, manifest.labels) == (("buy", "view"), ("buy",), ("rating",))
    assert (manifest.num_events, manifest.rows, manifest.kept, manifest.rejected) == (500, 500, 500, {})
    ratings = [event[4] for line in lines.values() for event in line if event[3] == 0 and event[4] is not None]
    assert manifest.label_means["rating"] == pytest.approx(np.mean(ratings))
    assert manifest.time_range == (frame["ts"].min() * 1000, frame["ts"].max() * 1000)
    assert manifest.config["sources"][0]["columns"]["labels"] == {"rating": "stars"}
    counts = dataset.rows.to_pandas()
    assert counts["train_tokens"].sum() == items["count"].sum()
    assert (counts["test_tokens"] <= 1).all()
    assert not (dataset.path / "staging").exists()


@pytest.mark.cluster
def test_neither_the_order_of_files_nor_the_number_of_shards_matters(ingest, tmp_path):
    frame = log()
    settings = {"history": ["buy"], "split": {"kind": "leave_one_out"}}
    first = ingest(
        sources=[{"format": "delimited", "path": write_parts(frame, tmp_path / "a"), "columns": COLUMNS}], **settings
    )
    parts = write_parts(frame, tmp_path / "b", seed=5, num_parts=7)
    other = ingest(
        project="other",
        shard_bytes=2048,
        sources=[{"format": "delimited", "path": parts, "columns": COLUMNS}],
        **settings,
    )
    assert len(first.manifest.shards) == 1
    assert len(other.manifest.shards) > 5
    assert other.vocabulary.item_ids.equals(first.vocabulary.item_ids)
    assert other.catalog.table.equals(first.catalog.table)
    assert lines_of(other) == lines_of(first)
    assert other.manifest.fingerprint != first.manifest.fingerprint, "other shards, other rows: another dataset"


@pytest.mark.cluster
def test_the_same_config_again_keeps_the_version_and_new_events_make_another(ingest, tmp_path):
    frame = log(1, 200)
    write_parts(frame, tmp_path / "log")
    source = {"format": "delimited", "path": str(tmp_path / "log"), "columns": COLUMNS}
    first, again = ingest(sources=[source]), ingest(sources=[source])
    assert again.path == first.path
    assert again.manifest.fingerprint == first.manifest.fingerprint
    assert [path.name for path in versions(first.path.parent)] == ["v0001"]
    frame.tail(20).assign(uid="new").to_csv(tmp_path / "log" / "more.csv", index=False)
    more = ingest(sources=[source])
    assert more.path.name == more.manifest.version == "v0002"
    assert more.manifest.num_users == first.manifest.num_users + 1
    assert Dataset.open(first.path).manifest == first.manifest, "whoever trained on the old version still finds it"
    history = ingest(sources=[source], history=["buy"])
    assert history.path.name == "v0003", "other tokens, another dataset"


@pytest.mark.cluster
def test_lanes_stay_whole_when_blocks_are_small(ingest, tmp_path):
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 4096
    try:
        source = {"format": "synthetic", "num_users": 1500, "num_items": 50, "num_tastes": 4, "seed": 1}
        small = ingest(**source)
    finally:
        context.target_max_block_size = before
    assert small.manifest.num_users == 1500
    assert small.manifest.num_events == small.manifest.kept
    assert ingest(**source).path == small.path, "the size of blocks changes nothing"


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


@pytest.mark.cluster
def test_rejected_rows_are_kept_with_rule_file_and_row(ingest, tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "good.csv").write_text(
        "uid,sku,ts,stars\n" + "".join(f"u2,a,{1600000000 + i},3\n" for i in range(60))
    )
    (tmp_path / "log" / "messy.csv").write_text(MESSY)
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "labels": {"rating": "stars"}}
    dataset = ingest(
        sources=[{"format": "delimited", "path": str(tmp_path / "log"), "columns": columns}], max_rejected=0.1
    )
    expected = {
        4: "missing_user",
        5: "unreadable_time",
        6: "malformed_line",
        7: "unreadable_label",
        8: "future_time",
    }
    rejected = pa.concat_tables([pq.read_table(path) for path in (dataset.path / "rejected").iterdir()]).to_pylist()
    assert {row["row"]: row["rule"] for row in rejected} == expected
    assert {row["source"] for row in rejected} == {str(tmp_path / "log" / "messy.csv")}
    records = {row["row"]: row["record"] for row in rejected}
    assert records[6] == "one field"
    assert json.loads(records[7])["label.rating"] == "good"
    manifest = dataset.manifest
    assert (manifest.rows, manifest.kept) == (68, 63)
    assert manifest.rejected == dict.fromkeys(expected.values(), 1)
    assert [event[0] for event in lines_of(dataset)["u1"]] == ["a", None, None], "b and f are held out only"


@pytest.mark.cluster
def test_too_many_rejected_rows_fail_with_counts_and_leave_nothing(ingest, tmp_path):
    (tmp_path / "messy.csv").write_text(MESSY)
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "labels": {"rating": "stars"}}
    with pytest.raises(UserError) as error:
        ingest(sources=[{"format": "delimited", "path": str(tmp_path / "messy.csv"), "columns": columns}])
    text = str(error.value)
    assert "5 of 8 rows (62.5%) are rejected" in text
    for rule in ("missing_user", "unreadable_time", "malformed_line", "unreadable_label", "future_time"):
        assert f"{rule} 1" in text
    assert "max_rejected is 5%" in text
    assert f"{tmp_path / 'messy.csv'}:6 malformed_line: one field" in text
    assert not (tmp_path / "store" / "datasets" / "p").exists()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        ("uid,sku\n", {}, r"log\.csv: the log is empty; nothing to ingest"),
        ("", {}, r"log\.csv: the file is empty"),
        ("uid,sku\n,a\nu,\nx\n", {}, r"3 of 3 rows \(100\.0%\) are rejected .*no row is good"),
        (
            "uidd,sku\nu,a\n",
            {},
            r"columns\.user_id: there is no column 'uid'; did you mean 'uidd'\? \(the file has: uidd, sku\)",
        ),
        (
            "uid,sku\nu,a\n",
            {"history": ["clik", "click"]},
            r"history: no event 'clik' in the logs; did you mean 'click'",
        ),
        (
            "uid,sku\nu,a\n",
            {"split": {"kind": "time", "valid_from": "2020-01-01", "test_from": "2021-01-01"}},
            "needs a time",
        ),
        (
            "uid,sku,ts\nu,a,1600000000\n",
            {"split": {"kind": "time", "valid_from": "2020-01-01", "test_from": "2021-01-01"}, "timestamp": "ts"},
            "split: no event is left to train on",
        ),
        (
            "uid,sku\n" + "".join(f"u,{i}\n" for i in range(200)),
            {"columns_event": "sku"},
            r"event: the logs name 200 kinds of events .* at most 127",
        ),
    ],
)
def test_a_log_that_makes_no_dataset_is_told_plainly_and_leaves_nothing(
    ingest, tmp_path, capfd, content, more, expected
):
    (tmp_path / "log.csv").write_text(content)
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": more.pop("timestamp", None)}
    columns["event"] = more.pop("columns_event", None)
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "event": "click", "columns": columns}
    with pytest.raises(UserError, match=expected) as error:
        ingest(sources=[source], **more)
    assert "Traceback" not in str(error.value)
    assert "ray::" not in str(error.value)
    assert capfd.readouterr().err.count("\n") <= 4, "the stages, and no tracebacks of Ray"
    assert not (tmp_path / "store" / "datasets" / "p").exists()


@pytest.mark.cluster
def test_a_failure_leaves_the_older_version_as_it_was(ingest, tmp_path):
    write_parts(log(1, 200), tmp_path / "log")
    source = {"format": "delimited", "path": str(tmp_path / "log"), "columns": COLUMNS}
    first = ingest(sources=[source])
    (tmp_path / "log" / "broken.csv").write_text("uid,sku,ts,what,stars\n" + "nonsense\n" * 100)
    with pytest.raises(UserError, match="100 of 300 rows"):
        ingest(sources=[source])
    assert [path.name for path in first.path.parent.iterdir()] == ["v0001"]
    assert Dataset.open(first.path.parent).manifest == first.manifest


@pytest.mark.cluster
def test_sources_of_different_kinds_make_one_dataset(ingest, tmp_path):
    clicks = pd.DataFrame({"u": [1, 1, 2, 1, 2], "i": [10, 11, 10, 12, 13], "t": pd.to_datetime(range(5), unit="D")})
    clicks.to_parquet(tmp_path / "clicks.parquet")
    (tmp_path / "ratings.csv").write_text(
        "user_id,item_id,when,stars\n1,10,1970-01-01T12:00,5\n2,10,1970-01-03T12:00,1\n"
    )
    dataset = ingest(
        sources=[
            {
                "format": "parquet",
                "path": str(tmp_path / "clicks.parquet"),
                "event": "click",
                "columns": {"user_id": "u", "item_id": "i", "timestamp": "t"},
            },
            {
                "format": "delimited",
                "path": str(tmp_path / "ratings.csv"),
                "event": "rating",
                "columns": {"timestamp": "when", "labels": {"rating": "stars"}},
            },
        ],
        split={"kind": "time", "valid_from": "1970-01-04", "test_from": "1970-01-05"},
    )
    day = 86_400_000
    assert lines_of(dataset) == {
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


@pytest.mark.cluster
def test_the_retail_example_holds_its_four_tables(ingest):
    tables = ("impression", "click", "cart", "purchase")
    sources = [{"format": "synthetic", "table": name, "num_users": 200, "seed": 1} for name in tables]
    dataset = ingest(sources=sources, history=["click", "purchase"])
    assert dataset.manifest.event_names == tuple(sorted(tables))
    assert dataset.manifest.history == ("click", "purchase")
    assert dataset.manifest.labels == ()
    for line in lines_of(dataset).values():
        shown: set[str] = set()
        for item, event, *_ in line:
            if event == "impression":
                shown.add(item)
            else:
                assert item in shown, f"{event} of an item that had not been shown"


@pytest.mark.cluster
def test_movielens_100k_holds_out_nothing_that_training_knows(ingest, data_root):
    dataset = ingest(format="movielens", path=str(data_root / "movielens-100k"))
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
    pd.testing.assert_series_equal(
        catalog["popularity"].sort_index(),
        train["sku"].value_counts().sort_index(),
        check_names=False,
        check_dtype=False,
    )
    assert catalog.loc["50", "title"] == "Star Wars (1977)"
    assert "Action" in catalog.loc["50", "genres"]
    assert manifest.label_means["rating"] == pytest.approx(train["stars"].mean())
    lines = lines_of(dataset)
    known = set(train["sku"])
    for user, own in frame.groupby("uid"):
        assert [event[2] for event in lines[user]] == (own["ts"] * 1000).tolist()
        assert [event[0] for event in lines[user]] == [sku if sku in known else None for sku in own["sku"]]
        assert [event[3] for event in lines[user]] == [0] * (len(own) - 2) + [1, 2]
    reader = ShardReader(dataset)
    rows = reader.rows(np.arange(943))
    assert (rows.items[rows.marks == Split.TRAIN] >= FIRST_ITEM).all()
    assert (rows.items == UNKNOWN).sum() == len(frame[~frame["sku"].isin(known)])
    assert read_arrow(dataset.shard_paths[0]).schema.names[:2] == ["user_id", "items"]


def test_a_plan_is_described_without_reading(tmp_path):
    path = write_parts(log(), tmp_path / "log")
    node = {"project": "p", "format": "delimited", "path": path, "shard_bytes": 4096}
    plan = describe(build(IngestConfig, node, "here"))
    size = sum(part.stat().st_size for part in Path(path).iterdir())
    assert plan["pieces"] == 4
    assert plan["source_bytes"] == size
    assert plan["shards"] == -(-size // 4096)
    assert plan["expected_disk_bytes"] >= size
    with pytest.raises(UserError, match="no such file or directory"):
        describe(build(IngestConfig, {**node, "path": str(tmp_path / "nothing")}, "here"))


def test_a_source_without_a_single_piece_is_an_empty_log(tmp_path):
    with pq.ParquetWriter(tmp_path / "x.parquet", pa.schema([("user_id", pa.string()), ("item_id", pa.string())])):
        pass
    with pytest.raises(UserError, match=r"x\.parquet: the log is empty; nothing to ingest"):
        raysys.ingest(
            {"project": "p", "root": str(tmp_path / "store"), "format": "parquet", "path": str(tmp_path / "x.parquet")}
        )
    assert not (tmp_path / "store").exists()
