"""Files are found and read wherever they lie: local paths, URIs, a real web server."""

import functools
import gzip
import http.server
import threading
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FileInfo, FileType

from raysys.data import places
from raysys.data.formats import FORMATS
from raysys.data.places import can_be_cut, is_compressed, list_files, open_random, open_text
from raysys.errors import UserError

pytestmark = pytest.mark.thorough


@pytest.fixture
def logs(tmp_path) -> Path:
    names = ["b/2.csv", "a/1.csv", "a/deep/3.csv.gz", "c.csv", "odd [1] é.csv"]
    hidden = ["_SUCCESS", ".hidden", "_temporary/part.csv", ".git/x.csv"]
    for name in names + hidden:
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"user_id,item_id\n{name.partition('.')[0]},x\n".encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return tmp_path / "logs"


ALL = ["a/1.csv", "a/deep/3.csv.gz", "b/2.csv", "c.csv", "odd [1] é.csv"]


def found(path: str, root: Path) -> list[str]:
    return [str(Path(file.path).relative_to(root)) for file in list_files(path)]


def test_a_directory_stands_for_all_its_files_sorted_without_hidden_ones(logs):
    assert found(str(logs), logs) == found(f"{logs}/", logs) == ALL
    (first, *_) = list_files(str(logs))
    assert first.size == (logs / "a/1.csv").stat().st_size
    assert datetime.fromisoformat(first.modified).timestamp() == pytest.approx((logs / "a/1.csv").stat().st_mtime)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["c.csv", "odd [1] é.csv"]),
        ("**/*.csv", ["a/1.csv", "b/2.csv", "c.csv", "odd [1] é.csv"]),
        ("**", ALL),
        ("[ab]", ["a/1.csv", "a/deep/3.csv.gz", "b/2.csv"]),
        ("?/*.csv", ["a/1.csv", "b/2.csv"]),
        ("a/**/3.*", ["a/deep/3.csv.gz"]),
        ("*/deep", ["a/deep/3.csv.gz"]),
        ("odd [1] é.csv", ["odd [1] é.csv"]),
        ("_SUCCESS", ["_SUCCESS"]),
    ],
)
def test_globs_and_single_files(logs, pattern, expected):
    assert found(f"{logs}/{pattern}", logs) == expected


def test_paths_are_found_from_any_working_directory(logs, monkeypatch):
    monkeypatch.chdir(logs)
    assert [file.path for file in list_files("a/*.csv")] == [str(logs / "a/1.csv")]


def test_file_uris_lead_to_files_that_open(logs):
    files = list_files(f"file://{logs}")
    assert [file.path.startswith("file:///") for file in files] == [True] * 5
    texts = []
    for file in files:
        with open_text(file.path) as stream:
            texts.append(stream.read().decode().splitlines()[1])
    assert texts == ["a/1,x", "a/deep/3,x", "b/2,x", "c,x", "odd [1] é,x"]
    assert len(list_files(f"file://{logs}/*.csv")) == 2
    assert list_files(f"file://{logs}/odd [1] é.csv")[0].size == 29


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nowhere", "no such file or directory"),
        ("nowhere/*.csv", "no such file or directory"),
        ("empty", "no such file or directory, or nothing in it"),
        ("file:///surely/not/here", "no such file or directory"),
        ("klingon://x/y", "Protocol not known: klingon"),
        ("memory://nothing/here", "no such file or directory"),
        ("s3://key:secret@bucket/logs", "a URI with a password in it"),
    ],
)
def test_a_path_without_files_is_refused(tmp_path, path, text):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"^path: .*{text}") as error:
        list_files(path if "://" in path else str(tmp_path / path))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_driver_that_is_missing_is_told_in_one_line():
    with pytest.raises(UserError, match=r"path: adl://bucket/x: .*adlfs") as error:
        list_files("adl://bucket/x")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused_when_it_is_opened(tmp_path):
    for open_file in (open_text, open_random):
        with pytest.raises(UserError, match=r"path: .*gone\.csv"):
            open_file(str(tmp_path / "gone.csv"))


def test_filesystems_of_fsspec_are_read():
    memory = MemoryFileSystem()
    memory.pipe("/bucket/logs/day=1/a.csv.gz", gzip.compress(b"user_id,item_id\nu1,a\n"))
    memory.pipe("/bucket/logs/day=2/_b.csv", b"x")
    memory.pipe("/bucket/logs/day=2/c.csv", b"user_id,item_id\nu2,b\n")
    assert [file.path for file in list_files("memory://bucket/logs")] == [
        "memory://bucket/logs/day=1/a.csv.gz",
        "memory://bucket/logs/day=2/c.csv",
    ]
    form = FORMATS["delimited"](FORMATS["delimited"].Config(path="memory://bucket/logs/day=*/*.csv*"))
    users = [user for piece in form.pieces() for raw in form.read(piece) for user in raw.table["user_id"].to_pylist()]
    assert users == ["u1", "u2"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
def test_packed_files_are_unpacked_by_their_suffix(tmp_path, suffix):
    path = f"{tmp_path}/log.csv{suffix}"
    with pa.output_stream(path, compression="detect") as sink:
        sink.write(b"hello\n" * 1000)
    with open_text(path) as stream:
        assert stream.read() == b"hello\n" * 1000
    assert is_compressed(path) == bool(suffix)
    assert can_be_cut(path) == (not suffix)
    with open_random(path) as file:
        assert file.size() == Path(path).stat().st_size


# A web server


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server that can send a part of a file."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            return super().do_GET()
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        data = path.read_bytes()
        part = data[int(begin) : int(end) + 1 if end else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{int(begin) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        return None

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        pass


class Plain(http.server.SimpleHTTPRequestHandler):
    """A server that sends whole files only."""

    def log_message(self, *_):
        pass


@pytest.fixture(params=[Ranges, Plain])
def site(request, logs):
    handler = functools.partial(request.param, directory=str(logs.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_is_listed_and_read(site, logs):
    pq.write_table(pa.table({"user_id": ["p"] * 50_000, "item_id": range(50_000)}), logs / "p.parquet")
    (logs / "odd [1] é.csv").unlink()
    files = list_files(f"{site}/logs/")
    assert [file.path.removeprefix(f"{site}/logs/") for file in files] == [*ALL[:4], "p.parquet"]
    assert [file.size for file in files] == [(logs / name).stat().st_size for name in [*ALL[:4], "p.parquet"]]
    assert [file.path for file in list_files(f"{site}/logs/a/*.csv")] == [f"{site}/logs/a/1.csv"]
    form = FORMATS["delimited"](FORMATS["delimited"].Config(path=f"{site}/logs/a/"))
    tables = [raw.table for piece in form.pieces() for raw in form.read(piece)]
    assert pa.concat_tables(tables)["user_id"].to_pylist() == ["a/1", "a/deep/3"]
    form = FORMATS["parquet"](FORMATS["parquet"].Config(path=f"{site}/logs/p.parquet"))
    (raw,) = form.read(form.pieces()[0])
    assert raw.table["item_id"].to_pylist() == list(range(50_000))
    with pytest.raises(UserError, match=r"path: .*nothing\.csv"):
        list_files(f"{site}/logs/nothing.csv")


def test_a_large_text_of_a_web_server_is_one_piece(site, logs, monkeypatch):
    rows = "".join(f"u{n},i{n}\n" for n in range(700_000))
    (logs / "large.csv").write_text("user_id,item_id\n" + rows)
    monkeypatch.setattr("raysys.data.formats.source.SPLIT_BYTES", 1000)
    form = FORMATS["delimited"](FORMATS["delimited"].Config(path=f"{site}/logs/large.csv"))
    (piece,) = form.pieces()
    assert not piece.by_offset
    assert sum(raw.table.num_rows for raw in form.read(piece)) == 700_000


def test_names_are_escaped_in_uris_and_options_stay(tmp_path):
    (tmp_path / "100% a?b#c.csv").write_text("x")
    (file,) = list_files(f"file://{tmp_path}")
    with open_text(file.path) as stream:
        assert stream.read() == b"x"
    place = places._resolve("s3://bucket/logs/?region=eu-west-1&endpoint_override=localhost:1")
    info = FileInfo("bucket/logs/a b.csv.gz", FileType.File, size=3, mtime=None)
    (file,) = [place.file(info, place.inner, place.name)]
    assert file.path == "s3://bucket/logs/a%20b.csv.gz?region=eu-west-1&endpoint_override=localhost:1"
    assert is_compressed(file.path)
