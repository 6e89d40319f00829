"""The facts of a dataset against a slow reference that goes through every event."""

import dataclasses
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.catalog import Catalog
from raysys.data.dataset import MANIFEST, Dataset, Manifest
from raysys.data.files import write_arrow
from raysys.data.page import page
from raysys.data.profile import profile
from raysys.data.reader import ShardReader
from raysys.data.scan import Scan
from raysys.data.schema import ROWS, Fields, sequences_schema
from raysys.data.validation import REJECTED
from raysys.data.vocabulary import Vocabulary
from raysys.data.wording import number, percent, printable, size

pytestmark = pytest.mark.thorough

NAMES = ("cart", "click", "view")
FIELDS = Fields(labels=("rating",), numbers=("price",), categories=("device",))
NUM_ITEMS = 4
DAY = 86_400_000
START = 1_700_000_000_000
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"

# (item index, event, ms after the start or None, mark, rating, price, index of the device)
events = st.tuples(
    st.integers(1, NUM_ITEMS + 1),
    st.integers(0, len(NAMES) - 1),
    st.one_of(st.none(), st.integers(0, 40 * DAY)),
    st.integers(-1, 2),
    st.one_of(st.none(), st.integers(1, 5)),
    st.one_of(st.none(), st.floats(-1000, 1000, width=32)),
    st.integers(1, 4),
)
lines = st.lists(st.lists(events, min_size=1, max_size=8), min_size=1, max_size=6)


def to_shard(users) -> pa.Table:
    columns = {name: [] for name in sequences_schema(FIELDS).names}
    for row, line in enumerate(users):
        columns["user_id"].append(f"u{row}")
        for place, name in enumerate(["items", "events", "times", "marks", "label.rating", "number.price"]):
            columns[name].append([event[place] for event in line])
        columns["times"][-1] = [0 if time is None else START + time for time in columns["times"][-1]]
        columns["category.device"].append([event[6] for event in line])
    return pa.table(columns, schema=sequences_schema(FIELDS))


def manifest_of(users, **more) -> Manifest:
    known = [START + event[2] for line in users for event in line if event[2] is not None]
    count = sum(map(len, users))
    return Manifest(
        project="shop",
        version="v0001",
        fingerprint="f" * 64,
        num_users=len(users),
        num_items=NUM_ITEMS,
        num_events=count,
        events_by_split={},
        event_names=NAMES,
        history=("click", "cart"),
        labels=FIELDS.labels,
        label_means={"rating": 3.5},
        numbers=FIELDS.numbers,
        categories={"device": 5},
        time_range=(min(known), max(known)) if known else None,
        rows=more.pop("rows", count),
        kept=count,
        rejected=more.pop("rejected", {}),
        config=more.pop("config", {}),
        shards=("00000.arrow", "00001.arrow"),
        **more,
    )


def write_dataset(folder: Path, users, **more) -> Dataset:
    """Write a dataset file by file; two shards."""
    version, manifest = folder / "v0001", manifest_of(users, **more)
    half = len(users) // 2
    for name, part in zip(manifest.shards, (users[:half], users[half:]), strict=True):
        write_arrow(to_shard(part), version / "shards" / name)
    tokens = [sum(event[1] < 2 and event[3] == 0 for event in line) for line in users]
    write_arrow(pa.table({name: pa.array(tokens, pa.int32()) for name in ROWS.names}), version / "rows.arrow")
    ids = pa.array([f"i{at}" for at in range(NUM_ITEMS)])
    Vocabulary(ids).save(version / "vocabulary.arrow")
    Vocabulary(pa.array(["phone", "desk", HOSTILE])).save(version / "categories" / "device.arrow")
    brands = pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0], pa.int32()), pa.array(["a", "b"]))
    tags = pa.array([["x"], [], None, ["y", "z"]], pa.list_(pa.string()))
    columns = {"item_id": ids, "popularity": pa.array([6, 0, 1, 3]), "title": [HOSTILE, None, None, "D"]}
    table = pa.table({**columns, "category.brand": brands, "text.tags": tags})
    Catalog(table).save(version / "catalog.arrow")
    (version / "files.json").write_text(json.dumps([{"path": "a.csv", "size": 10, "modified": "2026-01-01"}]))
    (version / MANIFEST).write_text(manifest.model_dump_json())
    return Dataset.open(folder)


def scan_of(parts, manifest: Manifest) -> Scan:
    scan = Scan(manifest, NUM_ITEMS + 2)
    for part in parts:
        scan.add(to_shard(part))
    return scan


@given(lines, st.integers(0, 6))
def test_a_scan_counts_what_a_loop_counts(users, cut):
    scan = scan_of((users[:cut], users[cut:]), manifest_of(users))
    flat = [(user, *event) for user, line in enumerate(users) for event in line]
    pairs = [{(user, item) for user, item, kind, *_ in flat if kind == k and item > 1} for k in range(len(NAMES))]
    assert scan.pairs == len(set().union(*pairs))
    assert scan.shared_pairs.tolist() == [[len(a & b) for b in pairs] for a in pairs]
    assert scan.users.tolist() == [len({user for user, _, kind, *_ in flat if kind == k}) for k in range(len(NAMES))]
    assert scan.outside == sum(item == 1 for _, item, *_ in flat)
    marks = Counter((kind, mark) for _, _, kind, _, mark, *_ in flat)
    assert scan.events.tolist() == [[marks[kind, mark] for mark in range(-1, 3)] for kind in range(len(NAMES))]
    devices = Counter(event[-1] for event in flat)
    assert scan.categories["device"].tolist() == [devices[code] for code in range(5)]
    for name, place in (("label.rating", 5), ("number.price", 6)):
        known = [event[place] for event in flat if event[place] is not None]
        found = scan.columns[name]
        assert found.count == len(known)
        if known:
            assert found.mean == pytest.approx(np.mean(known), abs=1e-3)
            assert found.deviation == pytest.approx(np.std(known), abs=1e-3)
            assert (found.low, found.high) == (min(known), max(known))


@given(lines)
def test_days_and_hours_are_those_of_the_calendar(users):
    scan = scan_of((users,), manifest_of(users))
    times = [
        (kind, datetime.fromtimestamp((START + time) / 1000, UTC))
        for line in users
        for _, kind, time, *_ in line
        if time is not None
    ]
    hours = Counter(24 * moment.weekday() + moment.hour for _, moment in times)
    assert scan.hours.tolist() == ([hours[at] for at in range(168)] if times else [])
    found = Counter()
    for kind, counts in enumerate(scan.days.tolist()):
        for bin_, count in enumerate(counts):
            found[kind, scan.first_day + bin_] += count
    expected = Counter((kind, (moment - datetime(1970, 1, 1, tzinfo=UTC)).days) for kind, moment in times)
    assert +found == expected


def test_a_stray_time_does_not_make_endless_days():
    users = [[(2, 0, 0, 0, None, None, 1), (2, 0, 9_000_000 * DAY, 0, None, None, 1)]]
    scan = scan_of((users,), manifest_of(users))
    assert scan.days.shape[1] <= 4_000
    assert scan.days.sum() == 2
    assert scan.days[0, [0, -1]].tolist() == [1, 1]


USERS = [
    # item, event, time, mark, rating, price, device
    [(2, 2, 0, 0, None, 1.0, 2), (2, 1, 1, 0, 4, None, 2), (2, 0, 2, 0, None, None, 1)],
    [(2, 2, 5, 0, None, 1.0, 3), (3, 2, DAY, 0, None, 3.0, 3), (3, 1, DAY, 1, 5, None, 1)],
    [(4, 2, 7, 0, None, None, 1), (1, 2, 2 * DAY, 2, None, None, 1), (4, 2, 3 * DAY, 2, None, None, 1)],
]


def test_the_facts_of_a_small_dataset(tmp_path):
    split = {"kind": "time", "valid_from": "2023-11-15T00:00:00Z", "test_from": "2023-11-16T00:00:00"}
    facts = profile(write_dataset(tmp_path, USERS, config={"split": split}, rows=11, cleaned={"repeat": 2}))
    view, click, cart = facts.funnel
    assert (view.event, view.events, view.users, view.pairs, view.share_of_previous) == ("view", 6, 3, 4, None)
    assert (click.event, click.pairs, click.share_of_previous) == ("click", 2, 0.5)
    assert (cart.event, cart.pairs, cart.share_of_previous) == ("cart", 1, 0.5)
    assert view.by_split == {"train": 4, "valid": 0, "test": 2}
    assert facts.density == 4 / (3 * NUM_ITEMS)
    assert facts.outside == 1
    assert facts.rows == {"read": 11, "kept": 9, "rejected": {}, "cleaned": {"repeat": 2}}
    assert facts.popularity.share_of_top["10%"] == 0.6
    assert facts.popularity.gini == pytest.approx(np.abs(np.subtract.outer([6, 0, 1, 3], [6, 0, 1, 3])).sum() / 80)
    assert (facts.popularity.once, facts.popularity.never) == (1, 1)
    assert facts.popularity.curve == [(1, 6), (2, 3), (3, 1), (4, 0)]
    assert facts.lengths.users == [2, 0, 1]
    assert facts.lengths.edges == [0, 1, 2, 3]
    rating = facts.labels["rating"]
    assert (rating.known, rating.training_mean, rating.mean) == (2, 3.5, 4.5)
    assert rating.known_share_by_event == {"click": 1.0}
    assert facts.numbers["price"].deviation == pytest.approx(np.std([1, 1, 3]))
    assert facts.categories["device"].values == 3
    assert facts.categories["device"].top == {"phone": 2, "desk": 2, HOSTILE: 0}
    covered = {name: (one.kind, one.covered, one.values) for name, one in facts.item_features.items()}
    assert covered == {"title": ("text", 0.5, None), "brand": ("category", 0.75, 2), "tags": ("text", 0.5, None)}
    assert facts.times is not None
    assert facts.times.days == ["2023-11-14", "2023-11-15", "2023-11-16", "2023-11-17"]
    assert facts.times.events["view"] == [3, 1, 1, 1]
    assert facts.times.boundaries == {"valid": "2023-11-15 00:00:00", "test": "2023-11-16 00:00:00"}
    assert [one.version for one in facts.versions] == ["v0001"]
    assert json.loads(json.dumps(dataclasses.asdict(facts)))["files"][0]["path"] == "a.csv"


@given(st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_history_lengths_fall_into_bins_that_grow(tmp_path_factory, lengths):
    folder = tmp_path_factory.mktemp("lengths")
    dataset = write_dataset(folder, USERS)
    columns = {name: pa.array(lengths, pa.int32()) for name in ROWS.names}
    write_arrow(pa.table(columns), dataset.path / "rows.arrow")
    found = profile(dataset).lengths
    assert sum(found.users) == len(lengths)
    assert found.users[-1] > 0
    expected = [sum(low <= n < high for n in lengths) for low, high in zip(found.edges, found.edges[1:], strict=False)]
    assert found.users == expected


def test_the_first_rows_of_every_rule_are_shown_from_any_file(tmp_path):
    dataset = write_dataset(tmp_path, USERS, rows=19, rejected={"missing_user": 5, "future_time": 4, "too_fast": 1})
    for part, rules in enumerate((["missing_user"] * 5 + ["future_time"] * 2, ["future_time"] * 2 + ["too_fast"])):
        rows = [
            {
                "rule": rule,
                "source": f"logs/{part}.csv",
                "row": None if part else at,
                "offset": at,
                "record": HOSTILE,
            }
            for at, rule in enumerate(rules)
        ]
        path = dataset.path / "rejected" / f"v0001-{part:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, REJECTED), path, row_group_size=2)
    found = profile(dataset).rejected_examples
    assert {rule: len(rows) for rule, rows in found.items()} == {"missing_user": 3, "future_time": 3, "too_fast": 1}
    assert [row["row"] for row in found["missing_user"]] == [0, 1, 2]
    assert [row["source"] for row in found["future_time"]] == ["logs/0.csv", "logs/0.csv", "logs/1.csv"]
    assert [row["offset"] for row in found["too_fast"]] == [2]


def test_the_page_shows_hostile_text_and_runs_none_of_it(tmp_path):
    names = (HOSTILE, "click", "view")
    dataset = write_dataset(tmp_path, USERS, rows=10, rejected={"missing_user": 1})
    node = json.loads((dataset.path / MANIFEST).read_text()) | {"event_names": names, "history": names}
    (dataset.path / MANIFEST).write_text(json.dumps(node))
    row = {"rule": "missing_user", "source": "a.csv", "row": 1, "offset": None, "record": HOSTILE}
    (dataset.path / "rejected").mkdir()
    pq.write_table(pa.Table.from_pylist([row], REJECTED), dataset.path / "rejected" / "one.parquet")
    text = page(profile(Dataset.open(tmp_path)))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e" in text
    assert "\x1b" not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert "default-src 'none'" in text


def test_the_page_asks_the_network_for_nothing(tmp_path):
    text = page(profile(write_dataset(tmp_path, USERS)))
    before = text[: text.index("<script>")]
    for word in (" src=", "href=", "url(", "@import"):
        assert word not in before
    assert text.count("Plotly.react") >= 1


def test_a_dataset_without_times_says_so(tmp_path):
    users = [[(*event[:2], None, *event[3:]) for event in line] for line in USERS]
    facts = profile(write_dataset(tmp_path, users))
    text = page(facts)
    assert facts.times is None
    assert "The log has no times" in text
    assert "plot-days" not in text
    assert "No row broke a rule." in text


def test_kinds_beyond_the_colours_are_summed(tmp_path):
    names = tuple(f"kind{at:02d}" for at in range(12))
    users = [[(2, at, 0, 0, None, None, 1)] for at in range(12)]
    dataset = write_dataset(tmp_path, users)
    node = json.loads((dataset.path / MANIFEST).read_text()) | {"event_names": names}
    (dataset.path / MANIFEST).write_text(json.dumps(node))
    text = page(profile(Dataset.open(tmp_path)))
    assert "5 further kinds" in text


def test_context_is_gathered_only_when_asked(tmp_path):
    dataset, rows = write_dataset(tmp_path, USERS), np.array([2, 0])
    assert ShardReader(dataset).rows(rows).context.numbers == {}
    found = ShardReader(dataset, columns=True).rows(rows)
    prices = np.array([np.nan] * 3 + [1, np.nan, np.nan], np.float32)
    np.testing.assert_array_equal(found.context.numbers["price"], prices)
    assert found.context.categories["device"].tolist() == [1, 1, 1, 2, 2, 1]
    assert found.labels.keys() == {"rating"}
    assert found.context.categories["device"].dtype == np.int32


def test_an_older_version_that_cannot_be_read_hides_no_newer_one(tmp_path):
    dataset = write_dataset(tmp_path, USERS)
    old = tmp_path / "v0000"
    old.mkdir()
    node = json.loads((dataset.path / MANIFEST).read_text()) | {"schema_version": 1}
    (old / MANIFEST).write_text(json.dumps(node))
    assert [one.version for one in profile(dataset).versions] == ["v0001"]


def test_words_for_people():
    assert [percent(share) for share in (0, 0.00012, 0.5, 0.9999, 1)] == [
        "0 %",
        "0.012 %",
        "50.0 %",
        "> 99.9 %",
        "100 %",
    ]
    assert [number(value) for value in (None, 0.123456, 12345.6)] == ["", "0.1235", "12,346"]
    assert [size(count) for count in (12, 2048, 3 << 30)] == ["12 B", "2.0 KiB", "3.0 GiB"]
    assert printable("a\tb\u202eé") == "a\\tb\\u202eé"
