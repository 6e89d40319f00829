"""The same logs give the same bytes, whatever happens to the tasks: a dataset is a function of its logs and config."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ingested import assert_counted, digests, lines_of
from shop_days import COLUMNS, SPLIT, shop_days, source_at, write_day

from raysys.data.files import write_arrow
from raysys.data.line import in_process
from raysys.data.passes import learn
from raysys.data.passes.plan import NUM_BUCKETS, read_begins, spill, spilled
from raysys.data.passes.route import _BLOCK_ROWS
from raysys.errors import UserError

pytestmark = pytest.mark.thorough

EVERYTHING = {
    "split": SPLIT,
    "labels": {"click": {"on": "view", "within": "1d"}},
    "history": ["click", "buy"],
    "clean": {"k_core": {"users": 2, "items": 2}, "fill": {"hour": 3}},
    "events_per_shard": 130,
}


@pytest.fixture
def logs(tmp_path) -> dict:
    """Five days with bad and double rows, and a table of items and one of users."""
    for day, frame in enumerate(shop_days()):
        extra = frame.head(3).assign(stars="many")
        write_day(pd.concat([frame, extra, frame.tail(4)]), tmp_path / "log", day)
    items = pd.DataFrame(
        {"item_id": [f"i{i}" for i in range(60)], "title": "t", "brand": [f"b{i % 7}" for i in range(60)]}
    )
    items.to_csv(tmp_path / "items.csv", index=False)
    users = pd.DataFrame({"user_id": [f"user-{i:03d}" for i in range(25)], "city": [f"c{i % 4}" for i in range(25)]})
    users.to_csv(tmp_path / "users.csv", index=False)
    return {
        "sources": [source_at(tmp_path / "log")],
        "items": {"path": str(tmp_path / "items.csv"), "categories": ["brand"]},
        "users": {"path": str(tmp_path / "users.csv"), "categories": ["city"]},
        **EVERYTHING,
    }


def backwards(key, values, task, plan, name):
    in_process(key, list(values)[::-1], task, plan, name)


def repeated(key, values, task, plan, name):
    """Every task runs, and runs again later: as if a worker had died with its work done."""
    values = list(values)
    shuffled = random.Random(1).sample(values * 2, 2 * len(values))
    in_process(key, shuffled, task, plan, name)


def killed(key, values, task, plan, name):
    """Tasks leave files half-written before they run to their end."""
    for value in values:
        for folder in [path for path in plan.version.rglob("*") if path.is_dir()]:
            (folder / ".00000.arrow.77.partial").write_bytes(b"half")
            (folder / ".00000.json.77.partial").write_bytes(b"half")
        in_process(key, [value], task, plan, name)


def interleaved(key, values, task, plan, name):
    """Tasks run side by side, in any order."""
    values = list(values)
    random.Random(2).shuffle(values)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda value: task(pa.table({key: [value]})), values))
    in_process(key, [], task, plan, name)


@pytest.mark.parametrize("each", [backwards, repeated, killed, interleaved])
def test_bytes_do_not_depend_on_how_the_tasks_run(ingest_here, logs, each):
    plain, other = ingest_here("plain", **logs), ingest_here("other", each=each, **logs)
    assert len(plain.manifest.shards) > 3
    assert plain.manifest.rejected == {"duplicate": 20, "not_a_number": 15}
    assert digests(other) == digests(plain)
    assert other.manifest.model_dump(exclude={"config"}) == plain.manifest.model_dump(exclude={"config"})
    assert_counted(plain)


@pytest.mark.parametrize("each", [backwards, repeated, interleaved])
def test_bytes_of_an_appended_day_do_not_depend_on_how_the_tasks_run(ingest_here, tmp_path, each):
    node = {"sources": [source_at(tmp_path / "log")], "split": SPLIT, "events_per_shard": 60}
    for day, frame in enumerate(shop_days(3)):
        write_day(frame, tmp_path / "log", day)
        one = ingest_here("one", append=day > 0, **node)
        two = ingest_here("two", append=day > 0, each=each, **node)
    assert digests(one) == digests(two)


def test_bytes_do_not_depend_on_how_rows_lie_in_files(ingest_here, tmp_path):
    frame = pd.concat(shop_days())
    made = []
    for name, num_files, seed in (("one", 1, 0), ("three", 3, 1), ("ten", 10, 2)):
        shuffled = frame.sample(frac=1, random_state=seed)
        for number, places in enumerate(np.array_split(np.arange(len(frame)), num_files)):
            write_day(shuffled.iloc[places], tmp_path / name, number)
        made.append(ingest_here(f"{name}-data", sources=[source_at(tmp_path / name)], **EVERYTHING))
    assert digests(made[0]) == digests(made[1]) == digests(made[2])
    assert made[0].manifest.fingerprint == made[2].manifest.fingerprint


def test_bytes_do_not_depend_on_row_groups_and_types(ingest_here, tmp_path):
    frame = pd.concat(shop_days()).replace("", None).astype({"stars": float})
    made = []
    for name, size in (("small", 50), ("large", 10_000)):
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if name == "large":
            table = table.set_column(0, "uid", table["uid"].dictionary_encode())
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=size)
        source = {"format": "parquet", "path": str(tmp_path / f"{name}.parquet"), "columns": COLUMNS}
        made.append(ingest_here(f"{name}-data", sources=[source], **EVERYTHING))
    assert digests(made[0]) == digests(made[1])
    frame.to_csv(tmp_path / "as.csv", index=False)
    source = {"format": "delimited", "path": str(tmp_path / "as.csv"), "columns": COLUMNS}
    assert digests(ingest_here("csv-data", sources=[source], **EVERYTHING)) == digests(made[0])


def test_blocks_of_any_size_are_the_same_dataset(ingest_here, logs, monkeypatch):
    plain = ingest_here("plain", **logs)
    monkeypatch.setattr("raysys.data.passes.route._BLOCK_ROWS", 50)
    monkeypatch.setattr("raysys.data.formats.lines.read_lines.__defaults__", (1000, False))
    assert _BLOCK_ROWS > 10_000
    assert digests(ingest_here("blocks", **logs)) == digests(plain)


def test_many_lanes_are_merged_level_by_level(ingest_here, logs, monkeypatch):
    few = ingest_here("few", **{**logs, "events_per_shard": 20})
    monkeypatch.setattr(learn, "FAN_IN", 2)
    monkeypatch.setattr("raysys.data.line.FAN_IN", 2)
    assert len(few.manifest.shards) > 15
    assert digests(ingest_here("levels", **{**logs, "events_per_shard": 20})) == digests(few)


def test_where_times_tie_the_order_of_sources_paths_and_rows_decides(ingest_here, tmp_path):
    for number, name in enumerate(["b-first", "a-second"]):
        for file in (1, 0):
            rows = "".join(f"u{user},{number}{file}{row},1600000000\n" for row in range(20) for user in range(3))
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{file}.csv").write_text("user_id,item_id,t\n" + rows)
    sources = [
        {"format": "delimited", "path": str(tmp_path / name), "columns": {"timestamp": "t"}}
        for name in ("b-first", "a-second")
    ]
    dataset = ingest_here(sources=sources, split={"kind": "leave_one_out"}, events_per_shard=100, each=interleaved)
    expected = [f"{number}{file}{row}" for number in (0, 1) for file in (0, 1) for row in range(20)]
    for line in lines_of(dataset).values():
        assert [event["item"] for event in line[:-2]] == expected[:-2]


def test_names_of_events_may_hold_anything(ingest_here, tmp_path):
    (tmp_path / "log").mkdir()
    kinds = ["put in\nthe cart", "köp", '"', "a,b", "\\n"]
    table = pa.table({"user_id": ["u"] * 20, "item_id": ["i"] * 20, "what": kinds * 4, "t": range(20)})
    pq.write_table(table.slice(0, 15), tmp_path / "log" / "0.parquet", row_group_size=4)
    columns = {"timestamp": "t", "time_unit": "s", "event": "what"}
    node = {"sources": [{"format": "parquet", "path": str(tmp_path / "log"), "columns": columns}]}
    dataset = ingest_here(split={"kind": "leave_one_out"}, **node)
    assert [event["event"] for event in lines_of(dataset)["u"]] == kinds * 3
    pq.write_table(table.slice(15), tmp_path / "log" / "1.parquet")
    more = ingest_here(split={"kind": "leave_one_out"}, append=True, **node)
    assert [event["event"] for event in lines_of(more)["u"]] == kinds * 4


def test_spilled_rows_lie_by_bucket_in_their_own_order(tmp_path):
    generator = np.random.default_rng(0)
    buckets = generator.choice([0, 5, 5, 70, NUM_BUCKETS - 1], 100).astype(np.uint16)
    table = pa.table({"row": np.arange(100)})
    spill(table, buckets, tmp_path / "000000-00000.arrow")
    (tmp_path / ".000001-00000.arrow.7.partial").write_bytes(b"x")
    (path,) = spilled(tmp_path)
    begins = read_begins(path)
    rows = pa.ipc.open_file(path).read_all()["row"].to_numpy()
    for bucket in (0, 1, 5, 70, NUM_BUCKETS - 1):
        assert rows[begins[bucket] : begins[bucket + 1]].tolist() == np.flatnonzero(buckets == bucket).tolist()
    assert begins[NUM_BUCKETS] == 100


def test_the_first_mistake_of_many_tasks_is_told_and_the_rest_is_spared(ingest_here, tmp_path):
    for day in range(3):
        (tmp_path / f"{day}.csv").write_text("uid,sku\nu,a\n" if day == 0 else "nothing\n1\n")
    ran = []

    def counting(key, values, task, plan, name):
        values = list(values)
        ran.extend([name] * len(values))
        in_process(key, values, task, plan, name)

    columns = {"user_id": "uid", "item_id": "sku"}
    with pytest.raises(UserError, match=r"1\.csv: columns\.user_id: there is no column 'uid'"):
        ingest_here(format="delimited", path=str(tmp_path / "*.csv"), columns=columns, each=counting)
    assert ran == ["read"] * 3
    assert not (tmp_path / "dataset").exists()


def test_a_table_with_every_kind_of_array_is_written_in_one_batch(tmp_path):
    table = pa.table(
        {"a": pa.chunked_array([[1], [2, 3]]), "b": pa.chunked_array([["x"], ["y", None]]).dictionary_encode()}
    )
    write_arrow(table, tmp_path / "x.arrow", compression="lz4")
    assert pa.ipc.open_file(tmp_path / "x.arrow").num_record_batches == 1
