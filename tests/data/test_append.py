"""Days appended one after the other are the dataset of all days; what earlier days were stays as it was."""

import tempfile
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingested import assert_counted, digests, facts, lines_of, popularity_of, rejected_of
from shop_days import FIRST_DAY, SPLIT, shop_days, source_at, write_day

from raysys.configfile import build
from raysys.data.append import read_files, read_lanes
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, versions
from raysys.data.files import read_arrow
from raysys.data.ingest import ingest
from raysys.data.line import in_process
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError

pytestmark = pytest.mark.thorough

LEAVE_ONE_OUT = {"kind": "leave_one_out"}
CLICKS = {"click": {"on": "view", "within": "1d"}}


@pytest.fixture
def days_of(ingest_here, tmp_path):
    """Write the days of a log one after the other, and ingest after each; gives the versions in order."""

    def run(days: list[pd.DataFrame], output: str = "appended", **node) -> list[Dataset]:
        made, folder = [], tmp_path / f"{output}-log"
        for day, frame in enumerate(days):
            write_day(frame, folder, day)
            made.append(ingest_here(output, append=day > 0, sources=[source_at(folder)], **node))
        return made

    return run


@pytest.fixture
def at_once(ingest_here, tmp_path):
    """Ingest all days together, from a folder of their own."""

    def run(days: list[pd.DataFrame], **node) -> Dataset:
        for day, frame in enumerate(days):
            write_day(frame, tmp_path / "appended-log", day)
        return ingest_here("whole", sources=[source_at(tmp_path / "appended-log")], **node)

    return run


def assert_same(appended: Dataset, whole: Dataset, *, labelled: bool = True) -> None:
    """The same users' lines, counts, vocabularies and catalog; without `labelled` indices may be other ones."""
    assert_counted(appended)
    assert_counted(whole)
    assert lines_of(appended) == lines_of(whole)
    shards = ("fingerprint", "shards", "num_items" if not labelled else "")
    assert facts(appended.manifest, without=shards) == facts(whole.manifest, without=shards)
    assert popularity_of(appended) == popularity_of(whole)
    unordered = [
        sorted((row["rule"], row["source"], row["row"]) for row in rejected_of(one)) for one in (appended, whole)
    ]
    assert unordered[0] == unordered[1]
    if labelled:
        assert appended.vocabulary.item_ids.equals(whole.vocabulary.item_ids)
        assert appended.catalog.table.equals(whole.catalog.table)
        for name in whole.manifest.categories:
            file = f"categories/{name}.arrow"
            assert read_arrow(appended.path / file).equals(read_arrow(whole.path / file))


def bytes_of(dataset: Dataset) -> dict[str, str]:
    return {name: digest for name, digest in digests(dataset).items() if not name.startswith("rejected/")}


@pytest.mark.parametrize("labels", [{}, CLICKS], ids=["plain", "labels"])
def test_days_in_order_are_all_days_at_once_byte_for_byte(days_of, at_once, labels):
    days, node = shop_days(), {"split": SPLIT, "history": ["click", "buy"], "labels": labels}
    appended = days_of(days, **node)
    whole = at_once(days, **node)
    assert [one.path.name for one in appended] == [f"v000{day}" for day in range(1, 6)]
    assert [one.manifest.parent for one in appended] == [None, "v0001", "v0002", "v0003", "v0004"]
    assert_same(appended[-1], whole)
    assert bytes_of(appended[-1]) == bytes_of(whole)
    assert appended[-1].manifest.fingerprint == whole.manifest.fingerprint
    assert whole.manifest.events_by_split == {"train": 540, "valid": 180, "test": 180}


def test_several_lanes_are_equal_byte_for_byte_where_their_bounds_are(days_of, at_once):
    days, node = shop_days(), {"split": SPLIT, "labels": CLICKS}
    appended = days_of(days, events_per_shard=45, **node)[-1]
    whole = at_once(days, events_per_shard=45 * len(days), **node)
    assert len(whole.manifest.shards) == 4
    assert read_lanes(appended.path)["bounds"] == read_lanes(whole.path)["bounds"], "as many events of each user a day"
    assert_same(appended, whole)
    assert bytes_of(appended) == bytes_of(whole)


def test_lanes_of_other_sizes_hold_the_same_users(days_of, at_once):
    days, node = shop_days(3, seed=1), {"split": SPLIT, "labels": CLICKS}
    appended = days_of(days, events_per_shard=30, **node)[-1]
    assert_same(appended, at_once(days, events_per_shard=200, **node))


@pytest.mark.parametrize("kind", ["leave_one_out", "ratio", "user_held_out"])
def test_splits_that_move_with_every_day_are_as_at_once(days_of, at_once, kind):
    days, node = shop_days(seed=2), {"split": {"kind": kind}, "labels": CLICKS, "events_per_shard": 70}
    assert_same(days_of(days, **node)[-1], at_once(days, **node), labelled=False)


def test_items_held_out_are_as_at_once(days_of, at_once):
    node = {"split": {**SPLIT, "kind": "item_held_out", "share": 0.2}, "events_per_shard": 70}
    days = shop_days(seed=3)
    appended, whole = days_of(days, **node)[-1], at_once(days, **node)
    assert whole.manifest.cleaned["held_out_item"] > 50
    assert_same(appended, whole)


def test_late_days_are_as_at_once_up_to_the_order_of_items(days_of, at_once):
    days, node = shop_days(), {"split": SPLIT, "labels": CLICKS, "events_per_shard": 60}
    late = [days[1], days[0], days[4], days[2], days[3]]
    appended = days_of(late, **node)
    whole = at_once(late, **node)
    assert not appended[-1].vocabulary.item_ids.equals(whole.vocabulary.item_ids), "the test needs another order"
    assert_same(appended[-1], whole, labelled=False)
    for earlier, later in pairwise(appended):
        known = earlier.vocabulary.item_ids
        assert later.vocabulary.item_ids.slice(0, len(known)).equals(known), "an index is never given away"


def test_rules_that_clean_see_all_days(days_of, at_once):
    clean = {"collapse_repeats": True, "min_user_events": 4, "max_history": 20, "fill": {"hour": 12}}
    node = {"split": SPLIT, "clean": clean, "history": ["click", "buy"], "events_per_shard": 60}
    days = shop_days(seed=4)
    appended, whole = days_of(days, **node), at_once(days, **node)
    assert {"short_user"} <= set(appended[0].manifest.cleaned)
    assert {"beyond_max_history"} <= set(whole.manifest.cleaned)
    assert facts(appended[-1].manifest, without=("fingerprint", "shards", "num_items")) == facts(
        whole.manifest, without=("fingerprint", "shards", "num_items")
    )
    assert_counted(appended[-1])
    known = set(appended[-1].vocabulary.item_ids.to_pylist()) - set(whole.vocabulary.item_ids.to_pylist())
    lines = lines_of(whole)
    for user, line in lines_of(appended[-1]).items():  # items that only the forgotten past trained on keep their index
        for event in line:
            event["item"] = None if event["item"] in known else event["item"]
        assert line == lines[user]
    assert popularity_of(appended[-1]) == popularity_of(whole)


def test_a_sample_of_the_users_is_the_same_on_every_day(days_of, at_once):
    days, node = shop_days(3, seed=5), {"split": SPLIT, "sample_users": 0.4}
    appended, whole = days_of(days, **node)[-1], at_once(days, **node)
    assert 0 < whole.manifest.num_users < 30
    assert_same(appended, whole)
    assert appended.manifest.cleaned_rows == whole.manifest.cleaned_rows == whole.manifest.cleaned


def view(user: str, second: int, what: str = "view", item: str = "a") -> dict:
    return {"uid": user, "sku": item, "ts": FIRST_DAY + second, "what": what, "stars": "", "hour": 1, "device": "desk"}


def test_a_label_whose_window_was_open_is_told_by_the_next_day(days_of):
    hour = 3600
    first = [view("u1", 0), view("u1", 1, item="b"), view("u2", 22 * hour), view("u3", 23 * hour)]
    first += [view("u9", at, "click", "z") for at in (0, 1)]
    second = [view("u2", 25 * hour, "click"), view("u9", 47 * hour, "click", "z")]
    split = {"kind": "time", "valid_from": "2030-01-01", "test_from": "2031-01-01"}
    labels = {"click": {"on": "view", "within": "6h"}}
    made = days_of([pd.DataFrame(first), pd.DataFrame(second)], split=split, labels=labels, events_per_shard=1)
    told = [{user: [event["click"] for event in line] for user, line in lines_of(one).items()} for one in made]
    assert told[0] == {"u1": [0, 0], "u2": [None], "u3": [None], "u9": [None, None]}
    assert told[1] == {"u1": [0, 0], "u2": [1, None], "u3": [0], "u9": [None, None, None]}
    lanes = {
        user: at for at, path in enumerate(made[0].shard_paths) for user in read_arrow(path)["user_id"].to_pylist()
    }
    inodes = [[path.stat().st_ino for path in one.shard_paths] for one in made]
    assert inodes[0][lanes["u1"]] == inodes[1][lanes["u1"]], "nothing is open there"
    assert inodes[0][lanes["u3"]] != inodes[1][lanes["u3"]], "no new row, but an open window"


def test_new_kinds_of_events_users_and_items_take_their_places(days_of, at_once):
    days = shop_days(4, num_users=20, seed=6)
    days[1].loc[days[1].index[:20], "what"] = "cart"  # sorts between the kinds of the first day
    days[2].loc[days[2].index[:9], "uid"] = "newcomer"
    days[3].loc[days[3].index[:9], "sku"] = "brand-new"
    node = {"split": {**SPLIT, "valid_from": "2020-09-20", "test_from": "2020-09-21"}, "events_per_shard": 40}
    appended = days_of(days, **node)
    assert appended[0].manifest.event_names == ("buy", "click", "view")
    assert appended[1].manifest.event_names == ("buy", "cart", "click", "view")
    assert appended[3].vocabulary.lookup(["brand-new"])[0] > 1
    assert_same(appended[-1], at_once(days, **node))


def test_only_shards_that_something_new_concerns_are_written(days_of):
    days = shop_days(2, num_users=40, seed=7)
    days[1] = days[1][days[1]["uid"].isin(["user-003", "user-031"])].assign(sku="i1")
    first, second = days_of(days, split=SPLIT, events_per_shard=20)
    assert len(first.manifest.shards) > 8
    changed = set()
    for before, after in zip(first.shard_paths, second.shard_paths, strict=True):
        if before.stat().st_ino != after.stat().st_ino:
            changed.add(before.name)
            assert {"user-003", "user-031"} & set(read_arrow(after)["user_id"].to_pylist())
        for folder in ("log", "items", "values/device"):
            same = (first.path / folder / before.name).stat().st_ino == (
                second.path / folder / before.name
            ).stat().st_ino
            assert same == (before.name not in changed)
    assert 1 <= len(changed) <= 2


def test_a_shard_with_an_item_that_only_now_has_an_index_is_written_anew(days_of, at_once):
    days = shop_days(5, num_users=40, seed=8)
    days[4].loc[days[4].index[-40:], "sku"] = "late-star"  # only the test period knows it
    late = days[0].head(1).assign(sku="late-star", ts=FIRST_DAY - 5)
    order = [*days, late]
    node = {"split": SPLIT, "events_per_shard": 60}
    made = days_of(order, **node)
    assert made[4].vocabulary.lookup(["late-star"])[0] == 1
    lines = lines_of(made[5])
    assert sum(event["item"] == "late-star" for line in lines.values() for event in line) == 41
    assert_same(made[5], at_once(order, **node), labelled=False)
    kept = [a.stat().st_ino == b.stat().st_ino for a, b in zip(made[4].shard_paths, made[5].shard_paths, strict=True)]
    assert not all(kept)


def test_rows_of_earlier_days_are_duplicates_on_a_later_one(days_of, at_once):
    days = shop_days(3, seed=9)
    days[2] = pd.concat([days[2], days[0].head(7), days[2].head(3)])
    node = {"split": SPLIT, "events_per_shard": 50}
    appended = days_of(days, **node)[-1]
    assert appended.manifest.rejected == {"duplicate": 10}
    assert_same(appended, at_once(days, **node))


def test_rejected_rows_of_every_day_are_kept(days_of, at_once):
    days = [day.astype({"ts": object}) for day in shop_days(3, seed=10)]
    for number, day in enumerate(days):
        day.iloc[: number + 2, day.columns.get_loc("ts")] = "never"
    appended = days_of(days, split=SPLIT)
    assert [one.manifest.rejected for one in appended] == [{"unreadable_time": n} for n in (2, 5, 9)]
    assert_same(appended[-1], at_once(days, split=SPLIT))


def test_nothing_new_is_the_same_version(days_of, ingest_here, tmp_path):
    made = days_of(shop_days(2), split=SPLIT)
    source = source_at(tmp_path / "appended-log")
    again = ingest_here("appended", append=True, sources=[source], split=SPLIT)
    assert again.path == made[1].path
    write_day(shop_days(2)[1].head(5), tmp_path / "appended-log", 2)
    copies = ingest_here("appended", append=True, sources=[source], split=SPLIT, max_rejected=1)
    assert len(versions(tmp_path / "appended")) == len({made[0].path, made[1].path, copies.path})
    assert lines_of(copies) == lines_of(made[1]), "a day of copies adds nothing"


def test_a_file_that_has_been_read_must_not_change(days_of, ingest_here, tmp_path):
    days = shop_days(2)
    made = days_of(days, split=SPLIT)
    write_day(days[0].head(100), tmp_path / "appended-log", 0)
    write_day(days[1], tmp_path / "appended-log", 2)
    with pytest.raises(UserError, match=r"--append: .*day-00\.csv has changed since v0002 read it") as caught:
        ingest_here("appended", append=True, sources=[source_at(tmp_path / "appended-log")], split=SPLIT)
    assert "without --append" in str(caught.value)
    assert versions(tmp_path / "appended") == [one.path for one in made]


def test_files_that_are_gone_need_not_be_kept(days_of, ingest_here, tmp_path):
    days = shop_days(3)
    made = days_of(days[:2], split=SPLIT)
    folder = tmp_path / "appended-log"
    (folder / "day-00.csv").unlink()
    write_day(days[2], folder, 2)
    third = ingest_here("appended", append=True, sources=[source_at(folder)], split=SPLIT)
    assert third.manifest.rows == made[1].manifest.rows + len(days[2])
    assert [Path(entry["path"]).name for entry in read_files(third.path)] == [f"day-0{day}.csv" for day in range(3)]


CHANGED = {
    "rules": ({"rules": {"max_events_per_minute": 3}}, "rules"),
    "history": ({"history": ["buy"]}, "history"),
    "labels": ({"labels": {"click": {"on": "view", "within": "2d"}}}, "labels"),
    "clean": ({"clean": {"min_user_events": 2}}, "clean"),
    "sample": ({"sample_users": 0.5}, "sample_users"),
    "drop": ({"drop": ["hour"]}, "drop"),
    "project": ({"project": "q"}, "project"),
    "k_core": ({"clean": {"k_core": {"users": 2, "items": 2}}}, "k_core"),
    "shares": ({"split": {"kind": "time", "valid_share": 0.2}}, "split"),
    "key": ({"pseudonymise": {"key": "env RAYSYS_TEST_KEY"}}, "pseudonymise"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_decided_how_earlier_days_were_read_must_not_change(days_of, ingest_here, tmp_path, monkeypatch, case):
    monkeypatch.setenv("RAYSYS_TEST_KEY", "0123456789abcdef")
    change, name = CHANGED[case]
    days_of(shop_days(1), split=SPLIT)
    write_day(shop_days(2)[1], tmp_path / "appended-log", 1)
    source = source_at(tmp_path / "appended-log")
    with pytest.raises(UserError, match=rf"^--append: .*{name}.*ingest everything anew|^--append: {name}") as caught:
        ingest_here("appended", append=True, **{"sources": [source], "split": SPLIT, **change})
    assert "Traceback" not in str(caught.value)
    assert [path.name for path in versions(tmp_path / "appended")] == ["v0001"]


def test_what_says_nothing_of_earlier_days_may_change(days_of, ingest_here, tmp_path):
    days = shop_days(2)
    days_of(days[:1], split=SPLIT, events_per_shard=40)
    write_day(days[1], tmp_path / "elsewhere", 1)
    free = {"max_rejected": 0.5, "events_per_shard": 9, "root": "other"}
    second = ingest_here("appended", append=True, sources=[source_at(tmp_path / "elsewhere")], split=SPLIT, **free)
    assert second.manifest.num_events == 360
    assert read_lanes(second.path)["bounds"] == read_lanes(second.path.parent / "v0001")["bounds"]


def test_dates_found_from_shares_stay_on_later_days(days_of):
    made = days_of(shop_days(3, seed=11))
    splits = [one.manifest.config["split"] for one in made]
    assert splits[0] == splits[1] == splits[2]
    assert made[2].manifest.events_by_split["test"] > 360, "whole days after the dates"


def test_dates_that_move_are_as_if_they_had_always_been(ingest_here, tmp_path, at_once):
    days = shop_days(5, seed=12)
    write_day(days[0], tmp_path / "appended-log", 0)
    for day, frame in enumerate(days):
        write_day(frame, tmp_path / "appended-log", day)
        split = {"kind": "time", "valid_from": f"2020-09-{14 + day}T12:00", "test_from": f"2020-09-{14 + day}T18:00"}
        node = {"sources": [source_at(tmp_path / "appended-log")], "split": split, "labels": CLICKS}
        appended = ingest_here("appended", append=day > 0, events_per_shard=60, **node)
        assert appended.manifest.config["split"]["valid_from"].startswith(split["valid_from"])
    assert_same(appended, at_once(days, split=split, labels=CLICKS))


def test_another_source_may_bring_fields_of_its_own(days_of, ingest_here, tmp_path):
    days = shop_days(2, seed=13)
    first = days_of(days[:1], split=SPLIT, events_per_shard=50)[0]
    days[1].rename(columns={"stars": "score"}).to_csv(tmp_path / "other.csv", index=False)
    columns = {"user_id": "uid", "item_id": "sku", "timestamp": "ts", "event": "what", "labels": {"score": "score"}}
    source = {"format": "delimited", "path": str(tmp_path / "other.csv"), "columns": columns}
    second = ingest_here("appended", append=True, sources=[source], split=SPLIT)
    assert set(second.manifest.labels) == {"rating", "score"}
    before = lines_of(first)
    for user, line in lines_of(second).items():
        old, new = line[: len(before[user])], line[len(before[user]) :]
        assert [{name: e[name] for name in before[user][0]} for e in old] == before[user], "no field of a day is lost"
        assert {e["score"] for e in old} == {None}
        assert {e["rating"] for e in new} == {e["device"] for e in new} == {None}
    assert_counted(second)


@pytest.mark.parametrize("stage", ["read", "gather", "learn", "encode"])
def test_a_failure_in_the_middle_leaves_the_earlier_version(days_of, ingest_here, tmp_path, stage):
    days = shop_days(2)
    first = days_of(days[:1], split=SPLIT, events_per_shard=50)[0]
    before = digests(first)
    write_day(days[1], tmp_path / "appended-log", 1)
    node = {"sources": [source_at(tmp_path / "appended-log")], "split": SPLIT}

    def breaking(key, values, task, plan, name):
        values = list(values)
        if name != stage:
            return in_process(key, values, task, plan, name)
        in_process(key, values[: len(values) // 2], task, plan, name)
        raise OSError("the machine is gone")

    with pytest.raises(OSError, match="the machine is gone"):
        ingest_here("appended", append=True, each=breaking, **node)
    assert [path.name for path in (tmp_path / "appended").iterdir()] == ["v0001"]
    assert digests(Dataset.open(tmp_path / "appended")) == before
    assert ingest_here("appended", append=True, **node).path.name == "v0002"


def test_who_trained_on_an_earlier_version_still_opens_it(days_of, ingest_here, tmp_path):
    days = shop_days(3, seed=14)
    first = days_of(days[:1], split=LEAVE_ONE_OUT, labels=CLICKS, events_per_shard=50)[0]
    before, lines = digests(first), lines_of(first)
    for day in (1, 2):
        write_day(days[day], tmp_path / "appended-log", day)
        node = {"sources": [source_at(tmp_path / "appended-log")], "split": LEAVE_ONE_OUT, "labels": CLICKS}
        ingest_here("appended", append=True, **node)
    again = Dataset.open(first.path)
    assert again.manifest == first.manifest
    assert digests(again) == before
    assert lines_of(again) == lines
    assert len(ShardReader(again).rows(again.rows_with_targets(Split.TEST)).items) == first.manifest.num_events


moments = st.integers(0, 400)
event = st.tuples(
    st.sampled_from([f"u{i}" for i in range(6)]),
    st.sampled_from([f"i{i}" for i in range(8)]),
    st.sampled_from(["view", "click"]),
    moments,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(event, min_size=3, max_size=40, unique_by=lambda row: row[3]),
    st.lists(moments, max_size=3),
    st.integers(2, 40),
    st.sampled_from(["time", "leave_one_out"]),
)
def test_any_log_cut_into_days_is_as_at_once(rows, cuts, events_per_shard, kind):
    minutes = 60
    rows = [view(user, at * minutes, what, item) for user, item, what, at in rows]
    begin = min(row["ts"] for row in rows)
    split = {"kind": kind}
    if kind == "time":
        bounds = [pd.Timestamp(begin + after * minutes, unit="s").isoformat() for after in (150, 250)]
        split |= {"valid_from": bounds[0], "test_from": bounds[1]}
    node = {"project": "p", "split": split, "labels": {"click": {"on": "view", "within": "30m"}}}
    both = [view("u0", 0, what, "i0") | {"ts": begin - before} for what, before in (("view", 5), ("click", 4))]
    frame = pd.DataFrame([*rows, *both])  # a join needs both kinds from the first day on
    edges = sorted({0, *(FIRST_DAY + cut * minutes for cut in cuts), 2**40})
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        for low, high in pairwise(edges):
            day = frame[(frame["ts"] >= low) & (frame["ts"] < high)]
            if len(day):
                write_day(day, Path(folder) / "log", number)
                source = source_at(Path(folder) / "log")
                config = build(IngestConfig, {**node, **source, "events_per_shard": events_per_shard}, "test.yaml")
                appended = ingest(config, Path(folder) / "appended", number > 0, in_process)
                number += 1
        whole = ingest(config, Path(folder) / "whole", False, in_process)
        assert facts(appended.manifest, without=("fingerprint", "shards", "num_items", "label_means")) == facts(
            whole.manifest, without=("fingerprint", "shards", "num_items", "label_means")
        )
        known = set(whole.vocabulary.item_ids.to_pylist())
        lines = lines_of(appended)
        if kind == "leave_one_out":  # a user who grows takes an item out of training again; its index stays
            for line in lines.values():
                for one in line:
                    one["item"] = one["item"] if one["item"] in known else None
        assert lines == lines_of(whole)
        assert popularity_of(appended) == popularity_of(whole)
