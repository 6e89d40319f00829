"""Item ids and their indices."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.schema import FIRST_ITEM, NEVER, PAD, UNKNOWN
from raysys.data.vocabulary import Vocabulary, extend, merge_items
from raysys.errors import UserError

ids = st.lists(st.text(max_size=3), unique=True, max_size=12)


def part(rows: list[tuple[str, int | None, int]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = {"item_id": pa.string(), "first_time": pa.int64(), "count": pa.int64()}
    return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(kinds.items(), columns, strict=True)})


def test_known_items_have_indices_and_others_are_unknown():
    vocabulary = Vocabulary(pa.array(["b", "a", "c"]))
    assert (len(vocabulary), vocabulary.num_items) == (5, 3)
    assert vocabulary.encode(pa.array(["a", "b", "zz", None, "c"])).to_pylist() == [3, 2, UNKNOWN, UNKNOWN, 4]
    assert vocabulary.encode(pa.chunked_array([["a"], ["zz", "b"]])).to_pylist() == [3, UNKNOWN, 2]
    assert vocabulary.encode(pa.array([], pa.string())).to_pylist() == []
    assert vocabulary.lookup(["b", "c", "zz", ""]).tolist() == [2, 4, UNKNOWN, UNKNOWN]


@given(ids)
def test_encode_lookup_and_decode_agree(names):
    vocabulary = Vocabulary(pa.array(names, pa.string()))
    indices = vocabulary.encode(pa.array(names, pa.string())).to_pylist()
    assert indices == list(range(FIRST_ITEM, FIRST_ITEM + len(names)))
    assert vocabulary.lookup(names).tolist() == indices
    assert vocabulary.decode(np.array(indices, np.int64)).to_pylist() == names


def test_texts_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr("raysys.data.vocabulary._hashes", lambda texts: np.array([len(t) for t in texts], np.int64))
    vocabulary = Vocabulary(pa.array(["xx", "a", "b", "", "c", "yy"])[1:])
    assert vocabulary.lookup(["c", "a", "b", "", "yy", "d", "xx", "abc"]).tolist() == [5, 2, 3, 4, 6, 1, 1, 1]


def test_decode_flattens_and_refuses_what_is_no_item():
    vocabulary = Vocabulary(pa.array(["a", "b"]))
    assert vocabulary.decode(np.array([[2, 3], [3, 2]])).to_pylist() == ["a", "b", "b", "a"]
    for index in (PAD, UNKNOWN, 4, -1):
        with pytest.raises(ValueError, match="indices from 2 to 3 name items"):
            vocabulary.decode(np.array([2, index]))


def test_a_saved_vocabulary_is_the_same(tmp_path):
    vocabulary = Vocabulary(pa.array(["b", "ä", ""]))
    vocabulary.save(tmp_path / "v.arrow")
    assert Vocabulary.load(tmp_path / "v.arrow").item_ids.equals(vocabulary.item_ids)
    (tmp_path / "v.arrow").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"v\.arrow: not an Arrow file"):
        Vocabulary.load(tmp_path / "v.arrow")


def test_order_is_first_time_then_id_and_what_training_never_met_comes_last():
    parts = [part([("c", 5, 1), ("b", 5, 1), ("z", NEVER, 0)]), part([("a", 9, 1), ("z", NEVER, 0), ("y", NEVER, 0)])]
    merged = merge_items(parts)
    assert merged.items["item_id"].to_pylist() == ["b", "c", "a", "y", "z"]
    assert merged.items["count"].to_pylist() == [1, 1, 1, 0, 0]
    assert merged.learned["item_id"].to_pylist() == ["b", "c", "a"]
    assert [place.tolist() for place in merged.places] == [[1, 0, 4], [2, 4, 3]]


def test_an_item_that_one_part_trains_on_is_learned():
    merged = merge_items([part([("a", NEVER, 0)]), part([]), part([("a", 7, 2)])])
    assert merged.learned.to_pylist() == [{"item_id": "a", "first_time": 7, "count": 2}]


rows = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4), st.integers(0, 9)), max_size=20)


@given(rows, st.randoms(use_true_random=False))
def test_the_vocabulary_does_not_depend_on_how_the_log_is_cut(log, generator):
    whole = merge_items([part(log)]).items
    shuffled = list(log)
    generator.shuffle(shuffled)
    cuts = sorted(generator.randrange(len(log) + 1) for _ in range(3))
    parts = [part(shuffled[a:b]) for a, b in zip([0, *cuts], [*cuts, len(log)], strict=True)]
    generator.shuffle(parts)
    merged = merge_items(parts)
    assert merged.items.equals(whole)
    for own, place in zip(parts, merged.places, strict=True):
        assert whole["item_id"].take(pa.array(place)).to_pylist() == own["item_id"].to_pylist()
    if log:
        frame = pd.DataFrame(log, columns=["item_id", "first_time", "count"])
        expected = frame.groupby("item_id", as_index=False).agg({"first_time": "min", "count": "sum"})
        expected = expected.sort_values(["first_time", "item_id"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(whole.to_pandas(), expected, check_dtype=False)


@given(rows, rows)
def test_later_items_follow_those_that_have_an_index(first, second):
    earlier = merge_items([part(first)]).learned["item_id"].combine_chunks()
    merged = merge_items([part(second)]).learned
    both = extend(earlier, merged)
    fresh = [item for item in merged["item_id"].to_pylist() if item not in set(earlier.to_pylist())]
    assert both["item_id"].to_pylist() == [*earlier.to_pylist(), *fresh]
    counts = dict(zip(merged["item_id"].to_pylist(), merged["count"].to_pylist(), strict=True))
    assert both["count"].to_pylist() == [counts.get(item, 0) for item in both["item_id"].to_pylist()]
