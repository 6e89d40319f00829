"""Whatever stands in a file: nothing but a user's mistake is raised, no row is lost, and cuts change nothing."""

import dataclasses
import gzip
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysys.data.formats import FORMATS, jsonl, lines
from raysys.data.formats.source import Piece
from raysys.data.validation import REJECTED, RowRules, validate
from raysys.errors import UserError

pytestmark = pytest.mark.thorough

RULES = RowRules(now_ms=2**60, time_unit="s", known_unit=True, events={"e": "view", "f": "buy"}, ranges={"x": (0, 9)})
COLUMNS = {
    "user_id": "u",
    "item_id": "i",
    "timestamp": "t",
    "event": {"column": "e", "map": {"e": "view", "f": "buy"}},
    "labels": {"x": "x"},
    "categories": {"c": "c"},
    "request_id": "r",
}
FILE = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(jsonl, "_SMALLEST_PART", 2)
    monkeypatch.setattr(lines.read_lines, "__defaults__", (64, False))


def form_of(name, path, **more):
    part = FORMATS[name]
    return part(part.Config(path=str(path), columns=COLUMNS, **more))


def judge(form, pieces) -> tuple[list[dict], list[dict], int]:
    """Read and validate pieces: (kept, rejected, empty); every row read is one of these."""
    kept, rejected, empty = [], [], 0
    for piece in pieces:
        for raw in form.read(piece):
            good, bad = validate(raw.table, raw.malformed, piece.path, RULES, piece.by_offset)
            assert raw.table.num_rows + raw.malformed.num_rows == good.num_rows + bad.num_rows
            assert bad.schema == REJECTED
            if piece.stop is not None:
                places = [*good["row"].to_pylist(), *bad["offset"].to_pylist()]
                assert all(piece.start <= place < piece.stop for place in places), "a line that begins elsewhere"
            kept += good.to_pylist()
            rejected += bad.to_pylist()
            empty += raw.empty
    return kept, rejected, empty


def as_parts(content: bytes, path, cuts: list[int]) -> list[Piece]:
    ends = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    return [Piece(str(path), place, start=a, stop=b) for place, (a, b) in enumerate(itertools.pairwise(ends))]


def check_cuts(form, path, content: bytes, cuts: list[int]) -> tuple[list[dict], list[dict]]:
    """Compare a whole file with any parts of it and with its packed form; rows are line numbers or line starts."""
    try:
        kept, rejected, empty = judge(form, [Piece(str(path), 0)])
    except UserError:
        with pytest.raises(UserError):
            judge(form, as_parts(content, path, []))
        return [], []
    begins = [0, *(place + 1 for place, byte in enumerate(content) if byte == 10)]
    parts_kept, parts_rejected, parts_empty = judge(form, as_parts(content, path, cuts))
    assert parts_empty == empty
    assert parts_kept == [{**row, "row": begins[row["row"] - 1]} for row in kept]
    found = [(row["offset"], row["rule"], row["record"]) for row in parts_rejected]
    assert sorted(found) == sorted((begins[row["row"] - 1], row["rule"], row["record"]) for row in rejected)
    packed = path.with_suffix(path.suffix + ".gz")
    packed.write_bytes(gzip.compress(content))
    again = judge(form, [Piece(str(packed), 0)])
    assert again[0] == kept
    return kept, rejected


cell = st.one_of(
    st.sampled_from(["", "u1", "e", "f", "1700000000", "5", "-3", "1e999", "nan", "NA", '"a,b"', '"a""b"', " x ", "é"]),
    st.text(alphabet="ab\"', ;\t\r\n1.", max_size=6),
).map(str.encode)
line = st.one_of(
    st.lists(cell, min_size=7, max_size=7).map(b",".join),
    st.lists(cell, max_size=9).map(b",".join),
    st.binary(max_size=12),
    st.sampled_from([b"", b"u,i,1,e,1,c,r", b'u,i,1,e,1,c,"r', b'"u",i,1,f,,,', b"\xff,i,1,e,1,c,r"]),
)
header = b"u,i,t,e,x,c,r"


@FILE
@given(
    st.lists(line, max_size=12),
    st.lists(st.integers(0, 999), max_size=3),
    st.booleans(),
    st.sampled_from(["utf8", "latin-1"]),
)
def test_any_delimited_text(tmp_path, rows, cuts, has_end, encoding):
    content = b"\n".join([header, *rows]) + b"\n" * has_end
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    check_cuts(form_of("delimited", path, encoding=encoding), path, content, cuts)


@FILE
@given(st.lists(line, max_size=12), st.integers(0, 11))
def test_a_good_delimited_line_is_kept_whatever_its_neighbours_are(tmp_path, rows, place):
    rows.insert(min(place, len(rows)), b'ux,"a, ""b""",1700000000,e,5,c,r')
    path = tmp_path / "log.csv"
    path.write_bytes(b"\n".join([header, *rows]))
    kept, _, _ = judge(form_of("delimited", path), [Piece(str(path), 0)])
    assert ("ux", 'a, "b"', 1_700_000_000_000, 5.0) in [
        (row["user_id"], row["item_id"], row["timestamp"], row["label.x"]) for row in kept
    ]


scalar = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(), st.floats(), st.sampled_from(["u1", "e", "f", "", "5"])
)
value = st.one_of(scalar, st.lists(scalar, max_size=3), st.dictionaries(st.text(max_size=1), scalar, max_size=1))
record = st.dictionaries(st.sampled_from("uitexcrz"), value, max_size=8).map(lambda row: json.dumps(row).encode())
good_record = st.fixed_dictionaries(
    {"u": st.sampled_from(["u1", "u2"]), "i": st.integers(1, 9), "t": st.integers(1, 99), "e": st.just("e")}
).map(lambda row: json.dumps(row).encode())
json_line = st.one_of(
    good_record,
    record,
    st.binary(max_size=8),
    st.sampled_from(
        [b"", b"{}", b"[]", b"null", b'{"u":"a"}{"u":"b"}', b'{"u":', b'"a"}', b'{"u":"\\ud800"}', b'{"u":"\xff"}']
    ),
    st.sampled_from([b" {} ", b'{"u":"a","u":"b"}', b'{"x":1e999,"u":NaN}', b"{}\r", b'{"u":[[1]]}']),
)


@FILE
@given(st.lists(json_line, max_size=12), st.lists(st.integers(0, 999), max_size=3), st.booleans())
def test_any_json_lines(tmp_path, rows, cuts, has_end):
    head = b'{"u": "u0", "i": 1, "t": 5, "e": "e"}'
    content = b"\n".join([head, *rows]) + b"\n" * has_end
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    form = form_of("jsonl", path)
    form._check = lambda path, sample: None
    kept, rejected, _ = judge(form, [Piece(str(path), 0)])
    bad = [row["row"] for row in rejected if row["rule"] == "malformed_line"]
    assert bad == [n for n, text in enumerate(content.split(b"\n"), 1) if text.strip() and not is_object(text)]
    assert "u0" in [row["user_id"] for row in kept]
    again = judge(form, as_parts(content, path, cuts))
    begins = [0, *(place + 1 for place, byte in enumerate(content) if byte == 10)]
    assert [row["offset"] for row in again[1] if row["rule"] == "malformed_line"] == [begins[row - 1] for row in bad]


def is_object(text: bytes) -> bool:
    try:
        found = json.loads(text.decode())
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


KINDS = {
    pa.string(): st.none() | st.text(max_size=3) | st.sampled_from(["e", "5"]),
    pa.binary(): st.none() | st.binary(max_size=3),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
    pa.float64(): st.none() | st.floats(),
    pa.timestamp("us"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.list_(pa.int64()): st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
    pa.list_(pa.string()): st.none() | st.lists(st.none() | st.sampled_from(["e", "f", "5"]), max_size=3),
    pa.large_list(pa.float64()): st.none() | st.lists(st.floats(), max_size=2),
    pa.list_(pa.list_(pa.int64())): st.none() | st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2),
}


@st.composite
def parquet_tables(draw) -> pa.Table:
    num_rows = draw(st.integers(0, 6))
    columns = {}
    for name in "uitexcr":
        kind = draw(st.sampled_from(list(KINDS)))
        columns[name] = pa.array(draw(st.lists(KINDS[kind], min_size=num_rows, max_size=num_rows)), kind)
    return pa.table(columns)


@FILE
@given(parquet_tables(), st.integers(1, 4))
def test_any_parquet_table(tmp_path, table, group_rows):
    path = tmp_path / "log.parquet"
    pq.write_table(table, path, row_group_size=group_rows)
    form = form_of("parquet", path)
    if table.num_rows and pa.list_(pa.list_(pa.int64())) in table.schema.types:
        with pytest.raises(UserError, match="its column holds list<"):
            judge(form, form.pieces())
        return
    kept, rejected, empty = judge(form, form.pieces())
    assert len(kept) + len(rejected) + empty == expected_events(table)


def expected_events(table: pa.Table) -> int:
    """Count what the rows come to: their events, or one for a row that is rejected or empty as a whole."""
    is_list = [pa.types.is_list(field.type) or pa.types.is_large_list(field.type) for field in table.schema]
    names = [field.name for field, yes in zip(table.schema, is_list, strict=True) if yes]
    total = 0
    for row in table.select(names).to_pylist() if names else []:
        length = max(len(value or []) for value in row.values())
        if "i" not in names:
            length = max(length, 1)
        there = [value for value in row.values() if value is not None and (value or "i" in names)]
        total += max(length, 1) if all(len(value) == length for value in there) else 1
    return total if names else table.num_rows


def test_a_piece_by_offset_is_one_with_an_end():
    assert not Piece("a", 0).by_offset
    assert dataclasses.replace(Piece("a", 0), stop=5).by_offset
