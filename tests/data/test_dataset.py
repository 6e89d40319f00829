"""A dataset directory: versions are whole or do not exist, and nothing of anybody else's is removed."""

import json

import numpy as np
import pyarrow as pa
import pytest

from raysys.contracts.conftest import contract_dataset, contract_reader  # noqa: F401
from raysys.data.dataset import MANIFEST, Dataset, Manifest, commit, new_version, versions
from raysys.data.files import ArrowParts, digest_of, link_or_copy, read_arrow, write_arrow, write_bytes
from raysys.data.schema import Split
from raysys.errors import UserError


def manifest(fingerprint: str = "f1", **more) -> Manifest:
    empty = {"num_users": 0, "num_items": 0, "num_events": 0, "rows": 0, "kept": 0}
    nothing = {"events_by_split": {}, "label_means": {}, "rejected": {}, "config": {}, "time_range": None}
    lists = dict.fromkeys(("event_names", "history", "labels", "shards"), ())
    return Manifest(project="p", version="v", fingerprint=fingerprint, **empty, **nothing, **lists, **more)


def finished_version(path, fingerprint: str = "f1") -> Dataset:
    return commit(new_version(path), manifest(fingerprint))


def test_versions_are_numbered_and_the_newest_whole_one_is_opened(tmp_path):
    path = tmp_path / "data"
    first, second = finished_version(path, "f1"), finished_version(path, "f2")
    assert [found.name for found in versions(path)] == ["v0001", "v0002"]
    (path / "v0003").mkdir()  # an ingestion that is running
    assert Dataset.open(path).path == second.path
    assert Dataset.open(first.path).manifest.fingerprint == "f1"


def test_an_unchanged_dataset_keeps_its_version(tmp_path):
    path = tmp_path / "data"
    first, again = finished_version(path), finished_version(path)
    assert again.path == first.path
    assert [found.name for found in path.iterdir()] == ["v0001"]


def test_what_an_interrupted_ingestion_left_is_removed(tmp_path):
    path = tmp_path / "data"
    finished_version(path)
    left = path / "v0002"
    (left / "staging" / "events").mkdir(parents=True)
    (left / ".rows.arrow.77.partial").write_bytes(b"x")
    assert new_version(path) == left
    assert list(left.iterdir()) == []
    assert (path / "v0001" / MANIFEST).is_file()


@pytest.mark.parametrize("name", ["photo.jpg", "v1/photo.jpg", "v0001/shards.txt", "v2-drafts/a/b.txt"])
def test_a_directory_of_somebody_elses_is_refused_and_left_alone(tmp_path, name):
    path = tmp_path / "mine"
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("precious")
    with pytest.raises(UserError, match=f"-o {path}: exists and is not a dataset directory"):
        new_version(path)
    assert (path / name).read_text() == "precious"


def test_a_file_in_place_of_a_dataset_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="exists and is not a dataset directory"):
        new_version(tmp_path / "file")
    assert new_version(tmp_path / "deep" / "new").is_dir()


def test_what_is_no_dataset_says_how_to_make_one(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match=r"raysys ingest CONFIG"):
            Dataset.open(path)
    (tmp_path / "v0001").mkdir()
    with pytest.raises(UserError, match=r"not a dataset \(no manifest\.json\)"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not a manifest of raysys"),
        ('{"project": 1}', "not a manifest of raysys"),
        ("[]", "not a manifest of raysys"),
    ],
)
def test_a_broken_manifest_is_told(tmp_path, text, expected):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=expected):
        Dataset.open(tmp_path)


def test_another_schema_version_is_told(tmp_path):
    node = json.loads(manifest(schema_version=99).model_dump_json())
    (tmp_path / MANIFEST).write_text(json.dumps(node))
    with pytest.raises(
        UserError, match=r"written with dataset schema 99, this raysys reads 2; run `raysys ingest` again"
    ):
        Dataset.open(tmp_path)


def test_files_are_whole_or_absent(tmp_path):
    table = pa.table({"a": pa.chunked_array([[1, 2], [3]])})
    write_arrow(table, tmp_path / "deep" / "x.arrow")
    assert read_arrow(tmp_path / "deep" / "x.arrow").equals(table)
    assert read_arrow(tmp_path / "deep" / "x.arrow")["a"].num_chunks == 1, "one batch, so that offsets are global"
    write_arrow(table.combine_chunks(), tmp_path / "deep" / "y.arrow")
    assert digest_of(tmp_path / "deep" / "x.arrow") == digest_of(tmp_path / "deep" / "y.arrow")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["x.arrow", "y.arrow"]
    write_bytes(b"new", tmp_path / "deep" / "y.arrow")
    assert (tmp_path / "deep" / "y.arrow").read_bytes() == b"new"
    with pytest.raises(UserError, match=r"y\.arrow: not an Arrow file"):
        read_arrow(tmp_path / "deep" / "y.arrow")
    with pytest.raises(UserError, match=r"run `raysys ingest` again"):
        read_arrow(tmp_path / "nothing.arrow")


def test_a_file_written_in_parts_is_absent_until_it_is_closed(tmp_path):
    table = pa.table({"a": pa.chunked_array([[1, 2], [3]])})
    parts = ArrowParts(tmp_path / "x.arrow", table.schema)
    for part in (table, table.slice(0, 0), table.slice(2)):
        parts.add(part)
    assert [path.name for path in tmp_path.glob("[!.]*")] == []
    parts.close()
    assert read_arrow(tmp_path / "x.arrow")["a"].to_pylist() == [1, 2, 3, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]


def test_a_second_name_outlives_the_first(tmp_path):
    write_bytes(b"one", tmp_path / "a")
    link_or_copy(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").stat().st_ino == (tmp_path / "a").stat().st_ino
    write_bytes(b"two", tmp_path / "a")
    assert (tmp_path / "deep" / "b").read_bytes() == b"one", "what is written anew leaves the other name alone"


def test_what_cannot_be_linked_is_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    write_bytes(b"one", tmp_path / "a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"one"
    assert (tmp_path / "b").stat().st_ino != (tmp_path / "a").stat().st_ino


def test_an_empty_table_is_written_and_read(tmp_path):
    write_arrow(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.arrow")
    assert read_arrow(tmp_path / "x.arrow").num_rows == 0


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALID, Split.TEST])
def test_users_with_targets_are_those_with_events_of_the_split(contract_dataset, contract_reader, split):  # noqa: F811
    rows = contract_reader.rows(np.arange(contract_dataset.manifest.num_users))
    owner = np.repeat(np.arange(len(rows.users)), np.diff(rows.offsets))
    expected = np.unique(owner[rows.marks == split])
    assert contract_dataset.rows_with_targets(split).tolist() == expected.tolist()
    assert len(expected)
