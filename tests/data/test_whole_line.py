"""From files to shards, whatever the files hold and whatever the config asks, against plain computations."""

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingested import assert_counted, events_of, lines_of, rejected_of
from shop_days import SPLIT, shop_days, source_at, timed, write_day

from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.formats.synthetic import Synthetic
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.reader import ShardReader
from raysys.errors import UserError

pytestmark = pytest.mark.thorough

LEAVE_ONE_OUT = {"kind": "leave_one_out"}
FOREVER = {"kind": "time", "valid_from": "2035-01-01", "test_from": "2036-01-01"}

# Any file at all

words = st.sampled_from(
    ["u1", "u2", "7", "", " ", "NaN", "1600000000", "1600000300", "-1", "é", '"', "1e3", "x y", "nan"]
)
rows = st.lists(st.lists(words, min_size=1, max_size=5), max_size=8)
sound = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from(["a", "b", "c"]),
        st.integers(1_600_000_000, 1_600_000_600).map(str),
        st.sampled_from(["1", "2.5", ""]),
    ).map(list),
    max_size=6,
)
texts = st.tuples(sound, rows, st.sampled_from(["\n", "\r\n"]), st.binary(max_size=12), st.booleans())


def written(kind: str, text, folder: Path) -> dict:
    """Write sound rows, any rows and a few bytes as a file of the kind; return its source."""
    good, bad, end, noise, packed = text
    names = ["u", "i", "t", "x"]
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=False))) for row in [*good, *bad]]
    elif kind == "sequences":
        lines = [" ".join(row) for row in [*good, *bad]]
    elif kind == "movielens":
        lines = ["\t".join([row[0], row[1], row[3] if len(row) > 3 else "", row[2]]) for row in good]
        lines += ["\t".join(row) for row in bad]
    else:
        lines = [",".join(names), *(",".join(row) for row in [*good, *bad])]
    content = end.join(lines).encode() + end.encode() + noise
    folder.mkdir(parents=True)
    if kind == "movielens":
        (folder / "u.data").write_bytes(content)
        return {"format": "movielens", "path": str(folder)}
    path = folder / f"log.{kind}{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(content) if packed else content)
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t", "time_unit": "s", "labels": {"x": "x"}}
    return {"format": kind, "path": str(path)} | ({} if kind == "sequences" else {"columns": columns})


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["delimited", "jsonl", "sequences", "movielens"]), texts), min_size=1, max_size=3
    ),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([1.0, 0.5]),
)
def test_any_files_are_a_users_mistake_or_a_dataset_that_lost_no_row(files, events_per_shard, max_rejected):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [written(kind, text, folder / str(number)) for number, (kind, text) in enumerate(files)]
        node = {"project": "p", "sources": sources, "split": LEAVE_ONE_OUT, "events_per_shard": events_per_shard}
        config = build(IngestConfig, {**node, "max_rejected": max_rejected}, "test.yaml")
        try:
            dataset = ingest(config, folder / "dataset", each=in_process)
        except UserError:
            assert not (folder / "dataset").exists()
            return
        assert_counted(dataset)
        assert sum(dataset.manifest.rejected.values()) <= max_rejected * dataset.manifest.rows


# A sample, and what is cleaned


@pytest.fixture
def shop(ingest_here, tmp_path):
    """Ingest five days of a shop in several lanes."""
    for day, frame in enumerate(shop_days(num_users=60)):
        write_day(frame, tmp_path / "log", day)

    def run(output: str = "dataset", **node) -> Dataset:
        return ingest_here(
            output, **{"sources": [source_at(tmp_path / "log")], "split": SPLIT, "events_per_shard": 300, **node}
        )

    return run


def ordered() -> pd.DataFrame:
    """The shop's log in the order of users and times, with the marks of SPLIT."""
    frame = pd.concat(shop_days(num_users=60)).sort_values(["uid", "ts"])
    return frame.assign(mark=timed(frame["ts"]), hour=frame["hour"].astype(float))


def pairs(frame: pd.DataFrame) -> list[tuple]:
    return list(zip(frame["uid"], frame["ts"] * 1000, frame["what"], frame["mark"], strict=True))


def found(dataset: Dataset) -> list[tuple]:
    events = events_of(dataset).sort_values(["user", "time"])
    return list(zip(events["user"], events["time"], events["event"], events["mark"], strict=True))


def test_a_sample_keeps_whole_users(shop):
    whole = lines_of(shop("whole"))
    for share in (0.2, 0.5):
        sampled = shop(f"sample-{share}", sample_users=share)
        lines = lines_of(sampled)
        assert abs(len(lines) / 60 - share) < 0.15
        for user, line in lines.items():
            assert [event["time"] for event in line] == [event["time"] for event in whole[user]]
        assert sampled.manifest.cleaned == {"not_sampled": sum(len(whole[user]) for user in set(whole) - set(lines))}
        assert_counted(sampled)
    smaller, larger = (set(lines_of(shop(f"again-{share}", sample_users=share))) for share in (0.2, 0.5))
    assert smaller < larger, "a larger sample holds the smaller one"


def test_repeats_are_collapsed_among_history_events(shop):
    frame = ordered()
    history = frame[frame["what"] != "view"]
    last = history.groupby("uid")[["sku", "what"]].shift()
    keys = set(zip(history["uid"], history["ts"], strict=True))
    same = (history["sku"] == last["sku"]) & (history["what"] == last["what"])
    gone = {
        key for key, repeated in zip(zip(history["uid"], history["ts"], strict=True), same, strict=True) if repeated
    }
    assert 0 < len(gone) < len(keys)
    dataset = shop(clean={"collapse_repeats": True}, history=["click", "buy"])
    expected = frame[[key not in gone for key in zip(frame["uid"], frame["ts"], strict=True)]]
    assert found(dataset) == pairs(expected)
    assert dataset.manifest.cleaned == {"repeat": len(gone)}
    assert_counted(dataset)


def test_short_users_go_and_long_ones_keep_their_newest_events(shop):
    frame = ordered()
    taken = frame[frame["what"] == "buy"].groupby("uid").size()
    enough = taken[taken >= 3].index
    kept = frame[frame["uid"].isin(enough)]
    assert 0 < len(enough) < 60
    dataset = shop(clean={"min_user_events": 3, "max_history": 20}, history=["buy"])
    assert found(dataset) == pairs(kept.groupby("uid").tail(20))
    short = len(frame) - len(kept)
    assert dataset.manifest.cleaned == {"beyond_max_history": len(kept) - 20 * len(enough), "short_user": short}
    assert_counted(dataset)


def test_missing_numbers_are_filled_on_purpose(ingest_here, tmp_path):
    lines = "".join(f"u{at % 3},i{at},{1_600_000_000 + at},{'' if at % 4 else at}\n" for at in range(40))
    (tmp_path / "log.csv").write_text("user_id,item_id,t,hour\n" + lines)
    columns = {"timestamp": "t", "numbers": {"hour": "hour"}}
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "columns": columns}
    for fill, missing in (({}, None), ({"hour": -1}, -1.0)):
        dataset = ingest_here(f"d{len(fill)}", sources=[source], split=LEAVE_ONE_OUT, clean={"fill": fill})
        for event in events_of(dataset).replace({np.nan: None}).itertuples():
            at = event.time // 1000 - 1_600_000_000
            assert event.hour == (missing if at % 4 else at)


@pytest.mark.parametrize("events_per_shard", [200, 100_000])
def test_a_core_leaves_users_and_items_with_enough_training_events(shop, events_per_shard):
    frame = ordered()
    core = {"users": 4, "items": 5}
    rare: set[str] = set()
    while True:
        left = frame[~frame["sku"].isin(rare)]
        counted = left[(left["mark"] == 0) & (left["what"] == "click")]
        per_user = counted.groupby("uid").size()
        short = set(frame["uid"]) - set(per_user[per_user >= core["users"]].index)
        counted = counted[~counted["uid"].isin(short)]
        per_item = counted.groupby("sku").size()
        more = set(left["sku"]) - set(per_item[per_item >= core["items"]].index)
        if not more:
            break
        rare |= more
    kept = left[~left["uid"].isin(short)]
    assert 0 < len(kept) < len(frame)
    dataset = shop(clean={"k_core": core}, history=["click"], events_per_shard=events_per_shard)
    assert found(dataset) == pairs(kept)
    counts = dataset.catalog.table["popularity"].to_pylist()
    assert min(counts) >= 5
    assert dataset.manifest.cleaned == {"rare_item": len(frame) - len(left), "short_user": len(left) - len(kept)}
    assert_counted(dataset)


def test_bursts_are_a_rule_and_not_cleaning(shop):
    frame = ordered()
    minutes = frame.groupby(["uid", frame["ts"] // 60])["ts"].transform("size")
    dataset = shop(rules={"max_events_per_minute": 1}, max_rejected=1)
    assert found(dataset) == pairs(frame[minutes <= 1])
    assert dataset.manifest.rejected == ({"too_fast": int((minutes > 1).sum())} if (minutes > 1).any() else {})
    assert_counted(dataset)


# Context, lists and tables


def test_context_and_labels_stand_beside_their_events(shop):
    dataset = shop()
    frame = ordered()
    lines = lines_of(dataset)
    known = set(frame[frame["mark"] == 0]["device"]) - {""}
    for user, own in frame.groupby("uid"):
        line = lines[user]
        assert [event["hour"] for event in line] == own["hour"].tolist()
        assert [event["device"] for event in line] == [d if d in known else None for d in own["device"]]
        assert [event["rating"] for event in line] == [float(s) if s else None for s in own["stars"]]
    rows = ShardReader(dataset, columns=True).rows(np.arange(60))
    assert rows.context.numbers["hour"].tolist() == [event["hour"] for line in lines.values() for event in line]
    assert (dataset.manifest.numbers, dict(dataset.manifest.categories)) == (("hour",), {"device": len(known) + 2})


def test_a_row_of_lists_is_an_event_per_element(ingest_here, tmp_path):
    generator = np.random.default_rng(0)
    expected, table = [], []
    for request in range(60):
        number = int(generator.integers(0, 5))
        items = [f"i{item}" for item in generator.choice(9, number, replace=False)]
        clicks = generator.integers(0, 2, number).tolist()
        table.append(
            {"u": f"u{request % 6}", "shown": items, "clicked": clicks, "t": 1_600_000_000 + request, "tab": "home"}
        )
        expected += [(f"u{request % 6}", item, float(click)) for item, click in zip(items, clicks, strict=True)]
    empty = sum(not row["shown"] for row in table)
    table.append({"u": "u1", "shown": ["a", "b"], "clicked": [1], "t": 1_600_000_100, "tab": "home"})
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "log.parquet", row_group_size=7)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    columns = {
        "user_id": "u",
        "item_id": "shown",
        "timestamp": "t",
        "labels": {"click": "clicked"},
        "categories": {"tab": "tab"},
    }
    for kind in ("parquet", "jsonl"):
        source = {"format": kind, "path": str(tmp_path / f"log.{kind}"), "event": "impression", "columns": columns}
        dataset = ingest_here(kind, sources=[source], split=FOREVER, events_per_shard=30)
        lines = lines_of(dataset)
        for user in {row[0] for row in expected}:
            own = [(item, click) for owner, item, click in expected if owner == user]
            assert [(event["item"], event["click"]) for event in lines[user]] == own
            assert {event["tab"] for event in lines[user]} == {"home"}
        assert dataset.manifest.cleaned == {"empty_list": empty}
        assert dataset.manifest.rejected == {"unequal_lists": 1}
        assert json.loads(rejected_of(dataset)[0]["record"])["item_id"] == ["a", "b"]
        assert dataset.manifest.rows == len(expected) + empty + 1
        assert_counted(dataset)


def test_tables_stand_in_the_order_of_items_and_users(shop, tmp_path):
    users = pd.DataFrame(
        {"user_id": [f"user-{at:03d}" for at in range(50)], "age": range(20, 70), "city": ["x", "y"] * 25}
    )
    users["tags"] = [json.dumps([f"t{at % 3}", "all"]) for at in range(50)]
    lines = [{**row, "tags": json.loads(row["tags"])} for row in users.to_dict("records")]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = pd.DataFrame({"sku": [f"i{at}" for at in range(40)], "title": [f"Item {at}" for at in range(40)]})
    items.assign(price=lambda rows: rows.index * 1.5, brand=lambda rows: "b" + (rows.index % 5).astype(str)).to_csv(
        tmp_path / "items.csv", index=False
    )
    dataset = shop(
        users={"path": str(tmp_path / "users.jsonl"), "numbers": ["age"], "categories": ["city", "tags"]},
        items={"path": str(tmp_path / "items.csv"), "id": "sku", "numbers": ["price"], "categories": ["brand"]},
    )
    in_shards = ShardReader(dataset).user_ids(np.arange(60)).to_pylist()
    table = read_arrow(dataset.path / "users.arrow")
    assert len(dataset.shard_paths) > 3
    assert table["user_id"].to_pylist() == in_shards
    for row in table.to_pylist():
        at = int(row["user_id"][5:])
        assert row["number.age"] == (20 + at if at < 50 else None)
        assert row["category.city"] == ("xy"[at % 2] if at < 50 else None)
        assert row["category.tags"] == ([f"t{at % 3}", "all"] if at < 50 else None)
    for row in dataset.catalog.table.to_pylist():
        at = int(row["item_id"][1:])
        known = at < 40
        assert row["title"] == (f"Item {at}" if known else None)
        assert row["number.price"] == (1.5 * at if known else None)
        assert row["category.brand"] == (f"b{at % 5}" if known else None)


def test_what_changes_over_time_is_as_it_was_at_each_event(shop, tmp_path):
    frame = ordered()
    generator = np.random.default_rng(1)
    begin = int(frame["ts"].min())
    changes = {}
    for side, name, number in (("user", "user-{:03d}", 50), ("item", "i{}", 30)):
        changes[side] = pd.DataFrame(
            {
                f"{side}_id": [name.format(at) for at in generator.integers(0, number, 300)],
                "since": begin + generator.choice(5 * 86_400, 300, replace=False),
                "level": generator.integers(0, 100, 300).astype(float),
                "plan": generator.choice(["free", "paid"], 300),
            }
        )
        changes[side].to_csv(tmp_path / f"{side}s.csv", index=False)
    tables = {
        f"{side}s": {
            "path": str(tmp_path / f"{side}s.csv"),
            "numbers": ["level"],
            "categories": ["plan"],
            "timestamp": "since",
        }
        for side in ("user", "item")
    }
    tables["items"]["title"] = None
    dataset = shop(**tables)
    assert set(dataset.manifest.numbers) == {"hour", "user.level", "item.level"}
    events = events_of(dataset).sort_values(["user", "time"]).reset_index(drop=True)
    for side, key in (("user", "uid"), ("item", "sku")):
        joined = pd.merge_asof(
            frame.sort_values("ts"),
            changes[side].sort_values("since"),
            left_on="ts",
            right_on="since",
            left_by=key,
            right_by=f"{side}_id",
        ).sort_values(["uid", "ts"])
        np.testing.assert_array_equal(events[f"{side}.level"].to_numpy(float), joined["level"].to_numpy(float))
        plans = [plan if isinstance(plan, str) else None for plan in joined["plan"]]
        assert [plan if isinstance(plan, str) else None for plan in events[f"{side}.plan"]] == plans
    assert not (dataset.path / "users.arrow").exists()


# Labels that other events set


def retail() -> pd.DataFrame:
    """The four generated tables of a shop, as one frame in the order of the sources."""
    parts = []
    for table in ("impression", "click", "cart", "purchase"):
        form = Synthetic(Synthetic.Config(table=table, num_users=60, num_items=30, seed=3))
        for piece in form.pieces():
            for raw in form.read(piece):
                parts.append(raw.table.to_pandas().assign(event=table))
    return pd.concat(parts, ignore_index=True)


def joined_labels(frame: pd.DataFrame, on: str, outcome: str, within: int, first: bool, until: pd.Series) -> dict:
    """What each `on` event is told: one outcome after the other, looking at every earlier event of user and item."""
    shown = {
        key: own.sort_values("timestamp", kind="stable")
        for key, own in frame[frame["event"] == on].groupby(["user_id", "item_id"])
    }
    told = set()
    for row in frame[frame["event"] == outcome].itertuples():
        own = shown.get((row.user_id, row.item_id))
        if own is None:
            continue
        own = own[(own["timestamp"] <= row.timestamp) & (own["timestamp"] >= row.timestamp - within)]
        same = own[own["request_id"] == row.request_id]
        own = same if len(same) else own
        if len(own):
            receiver = own.index[0 if first else -1]
            if row.timestamp <= until[receiver]:
                told.add(receiver)
    return {
        at: 1.0 if at in told else 0.0 if time + within <= until[at] else None
        for at, time in frame[frame["event"] == on]["timestamp"].items()
    }


@pytest.mark.parametrize("attribute", ["last", "first"])
@pytest.mark.parametrize("with_requests", [True, False])
def test_labels_are_joined_as_a_plain_loop_would(ingest_here, tmp_path, attribute, with_requests):
    frame = retail()
    frame["timestamp"] = frame["timestamp"] // 1000 * 1000
    if not with_requests:
        frame["request_id"] = None
    sources = []
    for table, own in frame.groupby("event", sort=False):
        own.drop(columns=["event", "row"]).to_parquet(tmp_path / f"{table}.parquet")
        columns = {
            "timestamp": "timestamp",
            "time_unit": "ms",
            **({"request_id": "request_id"} if with_requests else {}),
        }
        sources.append(
            {"format": "parquet", "path": str(tmp_path / f"{table}.parquet"), "event": table, "columns": columns}
        )
    days = {"click": (2, "impression"), "purchase": (3, "click")}
    labels = {name: {"on": on, "within": f"{day}d", "attribute": attribute} for name, (day, on) in days.items()}
    periods = [pd.Timestamp(date).value // 1_000_000 for date in ("2023-12-05", "2023-12-10")]
    split = {"kind": "time", "valid_from": "2023-12-05", "test_from": "2023-12-10"}
    node = {"split": split, "labels": labels, "history": ["click"], "rules": {"duplicates": False}}
    dataset = ingest_here(sources=sources, events_per_shard=700, **node)
    mark = np.searchsorted(periods, frame["timestamp"], side="right")
    ends = np.array([periods[0] - 1, periods[1] - 1, frame["timestamp"].max()])
    until = pd.Series(ends[mark], frame.index)
    expected = {
        name: joined_labels(frame, on, name, day * 86_400_000, attribute == "first", until)
        for name, (day, on) in days.items()
    }
    place = {event: at for at, event in enumerate(["impression", "click", "cart", "purchase"])}
    order = frame.assign(source=frame["event"].map(place)).sort_values(
        ["user_id", "timestamp", "source"], kind="stable"
    )
    lines = lines_of(dataset)
    for user, own in order.groupby("user_id"):
        assert [event["event"] for event in lines[user]] == own["event"].tolist()
        for name in days:
            assert [event[name] for event in lines[user]] == [expected[name].get(at) for at in own.index]
    for told in expected.values():
        assert {0.0, 1.0, None} == set(told.values())
    train = frame.index[mark == 0]
    for name, told in expected.items():
        known = [told[at] for at in train if told.get(at) is not None]
        assert dataset.manifest.label_means[name] == pytest.approx(np.mean(known))
    assert_counted(dataset)
