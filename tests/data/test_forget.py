"""A user who is forgotten stands in no file of any version; everybody else's data stay as they are."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ingested import assert_counted, contents, digests, facts, lines_of, popularity_of, recounted, rejected_of
from shop_days import FIRST_DAY, SPLIT, shop_days, source_at, write_day

from raysys.data import forget as forgetting
from raysys.data.append import read_lanes
from raysys.data.batches import make_batch
from raysys.data.dataset import Dataset, versions
from raysys.data.files import read_arrow
from raysys.data.forget import forget
from raysys.data.privacy import Pseudonymise, pseudonym
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.runs import RunRecord

pytestmark = pytest.mark.thorough

USER = "forget-me-7"
KEY = "0123456789abcdef-a-test"
CLICKS = {"click": {"on": "view", "within": "1d"}}


def days_with(name: str = USER, seed: int = 0) -> list[pd.DataFrame]:
    """Three days in which one user bears this name, with bad rows, copies and malformed lines of theirs."""
    days = shop_days(3, num_users=40, seed=seed)
    for day in days:
        day["uid"] = day["uid"].replace("user-007", name)
    own, other = days[0][days[0]["uid"] == name], days[0][days[0]["uid"] == "user-008"]
    bad = [own.head(2).assign(stars="many"), own.head(3), other.head(1).assign(stars="few"), own.head(1).assign(ts="x")]
    days[0] = pd.concat([days[0], *bad])
    return days


@pytest.fixture
def shop(ingest_here, tmp_path):
    """Two versions of a dataset with features of users, and how to ingest the third day."""
    pd.DataFrame(
        {"user_id": [f"user-{i:03d}" for i in range(30)] + [USER], "city": [f"c{i % 4}" for i in range(30)] + ["rare"]}
    ).to_csv(tmp_path / "users.csv", index=False)
    users = {"path": str(tmp_path / "users.csv"), "categories": ["city"]}

    def run(num_days: int, days=None, **node) -> Dataset:
        days = days or days_with()
        given = {"split": SPLIT, "labels": CLICKS, "users": users, "history": ["click", "buy"], "max_rejected": 0.2}
        for day in range(num_days):
            if not (tmp_path / "log" / f"day-{day:02d}.csv").exists():
                path = write_day(days[day], tmp_path / "log", day)
                if day == 0:
                    path.write_text(path.read_text() + f"{USER},i1\nuser-009,i1\nno fields but {USER}; here\n")
                dataset = ingest_here(
                    append=day > 0, sources=[source_at(tmp_path / "log")], **{"events_per_shard": 60, **given, **node}
                )
        return dataset

    return run


def test_no_file_of_any_version_holds_the_id(shop, tmp_path):
    dataset = shop(2)
    assert contents(dataset.path).count(USER) > 10
    before = [len(lines_of(Dataset.open(path))[USER]) for path in versions(tmp_path / "dataset")]
    removed = forget(tmp_path / "dataset", USER)
    assert [one.version for one in removed] == ["v0001", "v0002"]
    assert [one.events for one in removed] == before
    assert [one.logged for one in removed] == before
    assert [one.rejected for one in removed] == [8, 8]  # 3 bad rows, 3 copies, 2 malformed lines
    assert USER not in contents(tmp_path / "dataset")
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == ["v0001", "v0002"]


def test_everybody_else_stays_as_they_were(shop, tmp_path):
    shop(2)
    paths = versions(tmp_path / "dataset")
    before = [Dataset.open(path) for path in paths]
    old_lines, old_digests = [lines_of(one) for one in before], [digests(one) for one in before]
    users = [read_arrow(path / "users.arrow").to_pylist() for path in paths]
    rejected = [rejected_of(one) for one in before]
    forget(tmp_path / "dataset", USER)
    for at, path in enumerate(paths):
        after = Dataset.open(path)
        own = old_lines[at].pop(USER)
        assert lines_of(after) == old_lines[at]
        assert read_arrow(path / "users.arrow").to_pylist() == [row for row in users[at] if row["user_id"] != USER]
        assert rejected_of(after) == [row for row in rejected[at] if USER not in row["record"]]
        changed = {name for name, digest in digests(after).items() if digest != old_digests[at][name]}
        lane = next(name for name in sorted(changed) if name.startswith("shards/")).removeprefix("shards/")
        whole = {"catalog.arrow", "lanes.json", "rows.arrow", "users.arrow"}
        assert {name for name in changed if not name.startswith("rejected/")} <= {
            *(f"{folder}/{lane}" for folder in ("shards", "log", "items")),
            *whole,
        }
        old, new = facts(before[at].manifest), facts(after.manifest)
        assert new["num_users"] == old["num_users"] - 1
        assert new["kept"] == new["num_events"] == old["kept"] - len(own)
        assert new["num_items"] == old["num_items"], "indices stay: runs know them"
        assert (old["forgotten"], new["forgotten"]) == (0, 1)
        assert new["fingerprint"] != old["fingerprint"]


def test_counts_are_those_without_the_user(shop, tmp_path, ingest_here):
    shop(2)
    forget(tmp_path / "dataset", USER)
    days = [day[day["uid"] != USER] for day in days_with()]
    for day in range(2):
        path = write_day(days[day], tmp_path / "clean-log", day)
        path.write_text(path.read_text() + ("user-009,i1\n" if day == 0 else ""))
    node = {"split": SPLIT, "labels": CLICKS, "history": ["click", "buy"], "events_per_shard": 60, "max_rejected": 0.2}
    users = {"path": str(tmp_path / "users.csv"), "categories": ["city"]}
    clean = ingest_here("clean", sources=[source_at(tmp_path / "clean-log")], users=users, **node)
    after = Dataset.open(tmp_path / "dataset")
    assert_counted(after)
    assert popularity_of(after) == recounted(after) == popularity_of(clean)
    left_out = ("fingerprint", "shards", "forgotten", "num_items", "label_means", "user_columns")
    assert facts(after.manifest, without=left_out) == facts(clean.manifest, without=left_out)
    assert after.manifest.label_means == pytest.approx(clean.manifest.label_means)


def test_readers_and_batches_work_after_it(shop, tmp_path):
    shop(2)
    forget(tmp_path / "dataset", USER)
    dataset = Dataset.open(tmp_path / "dataset")
    reader = ShardReader(dataset)
    rows = dataset.rows_with_targets(Split.TRAIN)
    batch = make_batch(reader.rows(rows), Split.TRAIN, reader.is_history, 50)
    assert int(batch.targets.mask_BC.sum()) == dataset.manifest.events_by_split["train"]
    assert USER not in reader.user_ids(np.arange(dataset.manifest.num_users)).to_pylist()
    assert (
        read_arrow(dataset.path / "users.arrow")["user_id"].to_pylist()
        == reader.user_ids(np.arange(dataset.manifest.num_users)).to_pylist()
    ), "features stay beside their users"


def test_days_are_appended_after_it(shop, tmp_path):
    shop(2)
    forget(tmp_path / "dataset", USER)
    before = lines_of(Dataset.open(tmp_path / "dataset"))
    third = shop(3)
    assert_counted(third)
    assert third.manifest.parent == "v0002"
    new = lines_of(third)
    assert len(new[USER]) == 6, "who comes back begins anew"
    for user, line in before.items():
        known = [{**event, "click": None} for event in new[user][: len(line)]]  # windows may have closed
        assert known == [{**event, "click": None} for event in line]
    assert forget(tmp_path / "dataset", USER)[2].events == 6
    assert USER not in contents(tmp_path / "dataset")


def test_a_user_whose_events_were_all_cleaned_away_is_forgotten_too(shop, tmp_path):
    dataset = shop(1, days=days_with(), clean={"min_user_events": 4, "collapse_repeats": True})
    short = sorted(set(days_with()[0]["uid"]) - set(lines_of(dataset)))[0]
    assert short in contents(dataset.path)
    (removed,) = forget(tmp_path / "dataset", short)
    assert (removed.events, removed.logged) == (0, 6)
    assert short not in contents(tmp_path / "dataset")
    assert_counted(Dataset.open(tmp_path / "dataset"))
    for user in sorted(lines_of(Dataset.open(tmp_path / "dataset")))[:3]:
        forget(tmp_path / "dataset", user)
    after = Dataset.open(tmp_path / "dataset")
    assert_counted(after)
    assert after.manifest.forgotten == 4


def test_the_last_user_of_a_shard_and_of_a_dataset_can_go(ingest_here, tmp_path):
    rows = "".join(f"u{user},i{item},{FIRST_DAY + 7 * item + user}\n" for user in range(3) for item in range(6))
    (tmp_path / "log.csv").write_text("user_id,item_id,t\n" + rows)
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "columns": {"timestamp": "t"}}
    ingest_here(sources=[source], split={"kind": "leave_one_out"}, events_per_shard=1)
    for user in ("u1", "u0", "u2"):
        forget(tmp_path / "dataset", user)
        dataset = Dataset.open(tmp_path / "dataset")
        assert_counted(dataset)
        assert ShardReader(dataset).rows(np.arange(dataset.manifest.num_users)).offsets[-1] == dataset.manifest.kept
    assert (dataset.manifest.num_users, dataset.manifest.rows, dataset.manifest.time_range) == (0, 0, None)


@pytest.mark.parametrize("name", ["new name", "a/b:c", "x+y@mail.example", "täglich", 'quo"te', "1234567"])
def test_any_id_is_found_in_malformed_lines_and_rejected_rows(ingest_here, tmp_path, name):
    rows = [{"u": name, "i": f"i{at}", "t": FIRST_DAY + at} for at in range(4)]
    rows += [{"u": name, "i": "x", "t": "never"}, {"u": f"{name}9", "i": "x", "t": "never"}]
    lines = [json.dumps(row) for row in rows]
    lines += [f'{{"u": {json.dumps(name)}, "i"', f'{{"u": "{name}", ', f'{{"u": "{name}9", ']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    source = {"format": "jsonl", "path": str(tmp_path / "log.jsonl")}
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t", "time_unit": "s"}
    dataset = ingest_here(sources=[{**source, "columns": columns}], split={"kind": "leave_one_out"}, max_rejected=1)
    assert dataset.manifest.rejected == {"malformed_line": 3, "unreadable_time": 2}
    (removed,) = forget(tmp_path / "dataset", name)
    assert (removed.events, removed.rejected) == (4, 3)
    left = Dataset.open(tmp_path / "dataset")
    assert left.manifest.rejected == {"malformed_line": 1, "unreadable_time": 1}, "the rows of a longer name stay"
    assert len(rejected_of(left)) == 2


def test_an_item_that_bears_the_name_of_the_user_stays(ingest_here, tmp_path):
    rows = "".join(f"7,{item},{FIRST_DAY + item}\n8,{item},{FIRST_DAY + item}\n" for item in range(5, 9))
    (tmp_path / "log.csv").write_text("user_id,item_id,t\n" + rows + "8,7,never\n")
    source = {"format": "delimited", "path": str(tmp_path / "log.csv"), "columns": {"timestamp": "t"}}
    ingest_here(sources=[source], split={"kind": "leave_one_out"}, max_rejected=0.5)
    (removed,) = forget(tmp_path / "dataset", "7")
    assert (removed.events, removed.rejected) == (4, 0)


def test_a_user_nobody_knows_is_told(shop, tmp_path):
    shop(2)
    before = digests(Dataset.open(tmp_path / "dataset"))
    with pytest.raises(UserError, match=r"nobody: no version of .*dataset knows this user \(of v0001, v0002\)"):
        forget(tmp_path / "dataset", "nobody")
    assert digests(Dataset.open(tmp_path / "dataset")) == before
    with pytest.raises(UserError, match="not a dataset directory; give the directory that holds the versions"):
        forget(tmp_path / "dataset" / "v0001", USER)
    with pytest.raises(UserError, match="not a dataset directory"):
        forget(tmp_path / "nowhere", USER)


def test_a_crash_between_the_two_renames_heals(shop, tmp_path, monkeypatch):
    shop(2)
    rename, calls = Path.rename, []

    def dying(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        forget(tmp_path / "dataset", USER)
    monkeypatch.setattr(Path, "rename", rename)
    assert [path.name for path in versions(tmp_path / "dataset")] == ["v0002"]
    assert [one.version for one in forget(tmp_path / "dataset", USER)] == ["v0001", "v0002"]
    assert USER not in contents(tmp_path / "dataset")
    assert sorted(path.name for path in (tmp_path / "dataset").iterdir()) == ["v0001", "v0002"]
    assert_counted(Dataset.open(tmp_path / "dataset" / "v0001"))


@pytest.mark.parametrize("step", ["_rewrite", "_conclude"])
def test_a_crash_before_the_renames_leaves_the_version_as_it_was(shop, tmp_path, monkeypatch, step):
    dataset = shop(1)
    before = digests(dataset)
    with monkeypatch.context() as patched:
        patched.setattr(forgetting, step, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forget(tmp_path / "dataset", USER)
    assert digests(Dataset.open(tmp_path / "dataset")) == before
    forget(tmp_path / "dataset", USER)
    assert USER not in contents(tmp_path / "dataset")


def test_a_crash_after_the_renames_is_cleared_away(shop, tmp_path, monkeypatch):
    shop(1)
    remove, calls = shutil.rmtree, []

    def dying(path, *arguments, **named):
        calls.append(path)
        if str(path).endswith(".old") and Path(path).exists():
            raise KeyboardInterrupt
        return remove(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", dying)
        with pytest.raises(KeyboardInterrupt):
            forget(tmp_path / "dataset", USER)
    assert USER not in contents(tmp_path / "dataset" / "v0001")
    with pytest.raises(UserError, match="no version of"):
        forget(tmp_path / "dataset", USER)
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["v0001"]


def test_a_pseudonymised_user_is_named_as_the_key_allows(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYSYS_TEST_KEY", KEY)
    dataset = shop(2, pseudonymise={"key": "env RAYSYS_TEST_KEY"})
    secret = Pseudonymise(key="env RAYSYS_TEST_KEY").secret()
    names = [pseudonym(user, secret) for user in (USER, "user-003")]
    assert set(names) <= set(lines_of(dataset))
    assert forget(tmp_path / "dataset", USER)[1].events == 12
    assert names[0] not in contents(tmp_path / "dataset")
    monkeypatch.setenv("RAYSYS_TEST_KEY", KEY + "other")
    with pytest.raises(UserError, match="RAYSYS_TEST_KEY holds another key than the dataset was made with"):
        forget(tmp_path / "dataset", "user-003")
    monkeypatch.delenv("RAYSYS_TEST_KEY")
    with pytest.raises(UserError, match="no version of"):
        forget(tmp_path / "dataset", "user-003")
    assert forget(tmp_path / "dataset", names[1])[1].events == 12
    assert names[1] not in contents(tmp_path / "dataset")


def test_a_user_outside_the_sample_is_forgotten_among_the_rejected(ingest_here, tmp_path):
    days = days_with()
    write_day(days[0], tmp_path / "log", 0)
    node = {"sources": [source_at(tmp_path / "log")], "split": {"kind": "leave_one_out"}, "max_rejected": 0.5}
    dataset = ingest_here(sample_users=0.3, **node)
    left_out = [user for user in (USER, "user-008") if user not in lines_of(dataset)]
    assert left_out, "the test needs one outside"
    for user in left_out:
        (removed,) = forget(tmp_path / "dataset", user)
        assert (removed.events, removed.logged) == (0, 0)
        assert user not in contents(tmp_path / "dataset")
    assert_counted(Dataset.open(tmp_path / "dataset"))


def write_run(root: Path, dataset: Dataset, name: str) -> Path:
    manifest = dataset.manifest
    record = RunRecord(
        run_id=name,
        project="p",
        created=datetime(2024, 1, 1, tzinfo=UTC),
        seconds=1.0,
        epochs=1,
        best_epoch=1,
        steps=1,
        parent=None,
        dataset=str(dataset.path),
        dataset_version=manifest.version,
        dataset_fingerprint=manifest.fingerprint,
        parameters=1,
        valid={},
        test={},
        versions={},
    )
    path = root / "runs" / "p" / name
    path.mkdir(parents=True)
    (path / "run.json").write_text(record.model_dump_json())
    return path


def test_the_command_lists_the_runs_trained_on_the_user(shop, ingest_here, tmp_path, command):
    shop(2)
    paths = versions(tmp_path / "dataset")
    runs = [write_run(tmp_path / "store", Dataset.open(path), f"run-{at}") for at, path in enumerate(paths)]
    elsewhere = ingest_here("elsewhere", format="synthetic", num_users=20)
    write_run(tmp_path / "store", elsewhere, "run-of-others")
    code, out, _ = command("data", "forget", tmp_path / "dataset", USER, "--root", tmp_path / "store", "--json")
    told = json.loads(out)
    assert code == 0
    assert sorted(told["runs"]) == [str(run) for run in runs]
    assert [one["version"] for one in told["versions"]] == ["v0001", "v0002"]
    assert USER not in contents(tmp_path / "dataset")
    code, out, _ = command("data", "forget", tmp_path / "dataset", "user-001", "--root", tmp_path / "store")
    assert code == 0
    assert "v0002: 12 events and 0 rejected rows removed" in out
    assert "runs trained on the user's events: 2" in out
    code, _, err = command("data", "forget", tmp_path / "dataset", "user-001", "--root", tmp_path / "store")
    assert code == 2
    assert "no version of" in err


def test_lanes_keep_what_later_days_need(shop, tmp_path):
    shop(1)
    before = read_lanes(Dataset.open(tmp_path / "dataset").path)
    forget(tmp_path / "dataset", USER)
    after = read_lanes(Dataset.open(tmp_path / "dataset").path)
    for name in ("bounds", "split", "log_end_ms", "has_time"):
        assert after[name] == before[name]
    changed = [a != b for a, b in zip(before["summaries"], after["summaries"], strict=True)]
    assert changed.count(True) == 1
