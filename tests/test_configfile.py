"""YAML in, dotted paths, and what a user reads when something in a config is wrong."""

import textwrap
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.component import FrozenConfig, OneOf, name_as_kind
from raysys.config import RunConfig
from raysys.configfile import apply_settings, build, dump_yaml, parse_value, read_yaml, set_path, store_root
from raysys.data.config import IngestConfig
from raysys.errors import UserError


@pytest.fixture
def write(tmp_path):
    def make(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return make


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


# Reading


def test_numbers_are_read_as_people_write_them(write):
    node = read_yaml(write("a: 1e-3\nb: 1E5\nc: -2.5e3\nd: 0.5\ne: 7\nf: [1e-3]\ng: 1e3x\nh: true"))
    assert node == {"a": 0.001, "b": 1e5, "c": -2500.0, "d": 0.5, "e": 7, "f": [0.001], "g": "1e3x", "h": True}
    assert isinstance(node["b"], float)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO", "y"])
def test_words_stay_words(write, word):
    node = read_yaml(write(f"labels: {{click: {{{word}: impression}}}}\nvalue: {word}"))
    assert node == {"labels": {"click": {word: "impression"}}, "value": word}
    assert parse_value(dump_yaml(node)) == node


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "false"])
def test_true_and_false_are_no_words(write, word):
    assert read_yaml(write(f"value: {word}")) == {"value": word.lower() == "true"}
    assert parse_value(dump_yaml({"value": word})) == {"value": word}, "the text is quoted"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("a: 1\n\tb: 2", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: &x [*x]", "not valid YAML"),
        ("a: 1\nb: {c: 1, c: 2}", "key 'c' is written twice"),
        ("a: 1\nb: 2\na: 3", "key 'a' is written twice"),
        ("- 1\n- 2", "a mapping of keys to values"),
        ("just text", "a mapping of keys to values"),
        ("", "a mapping of keys to values"),
    ],
)
def test_what_is_not_a_config_is_refused_with_the_file_named(write, text, expected):
    path = write(text)
    found = message(read_yaml, path)
    assert expected in found
    assert found.startswith(f"{path}: ")
    assert "\n" not in found


def test_the_line_of_a_yaml_mistake_is_told(write):
    assert "line 3" in message(read_yaml, write("a: 1\nb: 2\nc: d: e\nf: 4"))


@pytest.mark.parametrize("text", ["from: 2023-13-45", "? [1, 2]\n: 3", "{a: b}: 3"])
def test_yaml_that_python_cannot_hold_is_the_users_mistake_too(write, text):
    assert "not valid YAML" in message(read_yaml, write(text))


def test_merge_keys_work(write):
    assert read_yaml(write("base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3"))["more"] == {"a": 1, "b": 3}


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"project: caf\xe9\n")
    assert "not valid YAML" in message(read_yaml, path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    found = message(read_yaml, tmp_path / "nothing.yaml")
    assert "no such config file" in found
    assert "raysys init" in found


def test_variables_are_filled_from_the_environment_with_defaults(write, monkeypatch):
    monkeypatch.setenv("RAYSYS_TEST_A", "/data")
    monkeypatch.delenv("RAYSYS_TEST_B", raising=False)
    node = read_yaml(write("a: ${RAYSYS_TEST_A}/x\nb: ['${RAYSYS_TEST_B:-d}']\nc: {d: '${RAYSYS_TEST_B:-}'}\ne: $HOME"))
    assert node == {"a": "/data/x", "b": ["d"], "c": {"d": ""}, "e": "$HOME"}
    assert "${RAYSYS_TEST_B} is not set" in message(read_yaml, write("a: ${RAYSYS_TEST_B}"))


def test_store_root_follows_the_environment(monkeypatch):
    monkeypatch.delenv("RAYSYS_ROOT", raising=False)
    assert store_root() == "store"
    monkeypatch.setenv("RAYSYS_ROOT", "elsewhere")
    assert store_root() == "elsewhere"


texts = st.text(st.sampled_from("aZ_é #:-.,'\"{}[]&*!|>%@`~01\n\t"), max_size=6)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(texts, plain_values, max_size=3))
def test_what_is_written_is_read_back_equal(node):
    assert parse_value(dump_yaml(node)) == node


@pytest.mark.parametrize("name", ["1e5", "1e-3"])
def test_a_text_that_looks_like_a_number_stays_text(name):
    assert parse_value(dump_yaml({"project": name})) == {"project": name}


# Paths


def test_a_path_sets_one_value_and_leaves_the_rest():
    node = {"a": {"b": 1, "c": 2}, "d": [{"e": 1}, {"e": 2}]}
    assert set_path(node, "a.b", 9) == {"a": {"b": 9, "c": 2}, "d": node["d"]}
    assert set_path(node, "d.1.e", 9)["d"] == [{"e": 1}, {"e": 9}]
    assert set_path(node, "d.0", 9)["d"] == [9, {"e": 2}]
    assert set_path(node, "new.deep.key", 9)["new"] == {"deep": {"key": 9}}
    assert set_path({"a": None}, "a.b", 1) == {"a": {"b": 1}}
    assert node == {"a": {"b": 1, "c": 2}, "d": [{"e": 1}, {"e": 2}]}, "the given config was changed"


keys = st.sampled_from(["a", "b", "c"])
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=5)


@given(st.dictionaries(keys, trees), st.lists(keys, min_size=1, max_size=3), st.integers())
def test_what_was_set_is_found_and_nothing_else_changes(node, steps, value):
    try:
        changed = set_path(node, ".".join(steps), value)
    except UserError:
        return  # the path led through a plain value
    found, before, after = changed, dict(node), dict(changed)
    for step in steps:
        found = found[step]
    assert found == value
    before.pop(steps[0], None)
    after.pop(steps[0])
    assert after == before


def test_setting_a_kind_replaces_the_node():
    node = {"model": {"backbone": {"kind": "sasrec", "num_blocks": 3}, "width": 8}}
    assert set_path(node, "model.backbone.kind", "hstu") == {"model": {"backbone": {"kind": "hstu"}, "width": 8}}
    assert set_path(node, "model.backbone.kind", "sasrec") == node, "the same kind again changes nothing"
    source = {"sources": [{"format": "delimited", "delimiter": ";"}]}
    assert set_path(source, "sources.0.format", "parquet") == {"sources": [{"format": "parquet"}]}


def test_a_path_of_one_kind_touches_no_other_kind():
    node = {"model": {"backbone": {"kind": "hstu", "num_heads": 1}}}
    assert set_path(node, "model.backbone[hstu].num_heads", 4) == {
        "model": {"backbone": {"kind": "hstu", "num_heads": 4}}
    }
    assert set_path(node, "model.backbone[sasrec].num_heads", 4) == node
    with pytest.raises(UserError, match=r"set backbone\.kind first"):
        set_path({}, "backbone[sasrec].num_heads", 4)


@pytest.mark.parametrize(
    ("node", "path", "expected"),
    [
        ({"a": 1}, "a.b", "a.b: there is a plain value (1) where 'b' should be set"),
        ({"a": "text"}, "a.b.c", "plain value ('text')"),
        ({"a": [1]}, "a.1", "'1' is not one of the 1 entries; count from 0"),
        ({"a": [1]}, "a.b", "'b' is not one of the 1 entries"),
        ({"a": [1]}, "a.-1", "'-1' is not one of the 1 entries"),
        ({}, "a..b", "'' is not a key"),
        ({}, "a[b", "'a[b' is not a key"),
        ({}, "[b]", "'[b]' is not a key"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(node, path, expected):
    assert expected in message(set_path, node, path, 1)


@pytest.mark.parametrize("node", [{"x": "text"}, {"x": [1]}, {"x": 1}])
def test_a_kind_asked_of_what_has_none_is_the_users_mistake(node):
    assert "x[a].b" in message(set_path, node, "x[a].b", 1)


def test_setting_the_format_of_a_source_at_top_level_keeps_the_project():
    node = {"project": "shop", "format": "movielens", "path": "logs"}
    assert set_path(node, "format", "sequences") == {"project": "shop", "format": "sequences", "path": "logs"}


def test_settings_are_read_as_yaml_and_applied_in_order():
    node = apply_settings({"a": 1}, ["a=2", "b.c=1e-3", "d=[1, x]", "e=", "f=a=b", "a=3"])
    assert node == {"a": 3, "b": {"c": 0.001}, "d": [1, "x"], "e": None, "f": "a=b"}


@pytest.mark.parametrize("setting", ["epochs", "=3", ""])
def test_a_setting_without_path_or_value_is_refused(setting):
    assert "write it as PATH=VALUE" in message(apply_settings, {}, [setting])


@pytest.mark.parametrize("setting", ["a=[1", "a={", "a=b: c: d", "a=2023-13-45"])
def test_a_setting_that_is_no_yaml_is_refused(setting):
    assert "--set a=" in message(apply_settings, {}, [setting])


# Building


class Small:
    """A part with a required number."""

    class Config(FrozenConfig):
        kind: Literal["small"] = "small"
        size: int


class Large:
    """Another part, with defaults only."""

    class Config(FrozenConfig):
        kind: Literal["large"] = "large"
        factor: float = 2.0


PARTS = {"small": Small, "large": Large}


class Whole(FrozenConfig):
    plugins: tuple[str, ...] = ()
    count: int = 1
    learning_rate: float = 0.1
    part: Annotated[FrozenConfig, OneOf(PARTS, default="large")] = Large.Config()
    inner: dict[str, Annotated[FrozenConfig, OneOf(PARTS)]] = {}


def test_defaults_fill_a_sparse_config():
    built = build(Whole, {"part": {"factor": 3}}, "here")
    assert built.part == Large.Config(factor=3.0)
    assert (built.count, built.learning_rate) == (1, 0.1)
    with pytest.raises(ValueError, match="frozen"):
        built.count = 2


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"coutn": 3}, "here: unknown key 'coutn'; did you mean 'count'? (allowed: count, inner, "),
        ({"zzz": 3}, "here: unknown key 'zzz' (allowed:"),
        ({1: 3}, "here: unknown key '1'"),
        (
            {"count": "many"},
            "here: count: Input should be a valid integer, unable to parse string as an integer, not 'm",
        ),
        ({"count": 1.5}, "here: count: Input should be a valid integer"),
        ({"count": None}, "here: count: Input should be a valid integer, not None"),
        ({"count": [1]}, "here: count: Input should be a valid integer, not [1]"),
        ({"learning_rate": "fast"}, "here: learning_rate: Input should be a valid number"),
        ({"part": {"kind": "smal"}}, "here: part: unknown kind 'smal'; did you mean 'small'? (allowed: large, small)"),
        ({"part": {"kind": 3}}, "here: part: unknown kind 3 (allowed: large, small)"),
        ({"part": "small"}, "here: part: a mapping with `kind:` is expected, not 'small'; allowed: large, small"),
        ({"part": None}, "here: part: a mapping with `kind:` is expected, not None"),
        ({"part": {"kind": "small"}}, "here: part.size: Field required"),
        ({"part": {"kind": "large", "facto": 1}}, "here: part: unknown key 'facto'; did you mean 'factor'?"),
        ({"inner": {"a": {"factor": 1}}}, "here: inner.a: `kind:` is missing; allowed: large, small"),
        ({"inner": {"a": {"kind": "large", "factor": "x"}}}, "here: inner.a.factor: Input should be a valid number"),
    ],
)
def test_every_mistake_names_the_place_the_value_and_what_is_allowed(node, expected):
    assert message(build, Whole, node, "here").startswith(expected)


def test_all_mistakes_are_told_at_once():
    lines = message(build, Whole, {"count": "x", "learning_rate": "y"}, "here").splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["count", "learning_rate"]


@pytest.mark.parametrize("kind", [["large"], {"a": 1}])
def test_a_kind_that_is_no_name_is_the_users_mistake(kind):
    assert "here: part: unknown kind" in message(build, Whole, {"part": {"kind": kind}}, "here")


def test_names_become_kinds_where_none_is_given():
    assert name_as_kind({"a": None, "b": {"x": 1}, "c": {"kind": "a"}, "d": 3}) == {
        "a": {"kind": "a"},
        "b": {"kind": "b", "x": 1},
        "c": {"kind": "a"},
        "d": 3,
    }
    assert name_as_kind([1]) == [1]
    assert "tasks.nxt_item: unknown kind 'nxt_item'; did you mean 'next_item'?" in message(
        build, RunConfig, {"project": "p", "tasks": {"nxt_item": {}}}, "here"
    )


# Plugins


def test_a_plugin_may_add_a_part_before_the_config_is_checked(tmp_path, monkeypatch):
    code = """
        from typing import Literal
        from raysys.data.splitting import SPLITS, LeaveOneOut
        class Never(LeaveOneOut):
            class Config(LeaveOneOut.Config):
                kind: Literal["plugged"] = "plugged"
        SPLITS["plugged"] = Never
    """
    (tmp_path / "plugged_split.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"project": "p", "format": "synthetic", "split": {"kind": "plugged"}}
    assert "unknown kind 'plugged'" in message(build, IngestConfig, node, "here")
    built = build(IngestConfig, {**node, "plugins": ["plugged_split"]}, "here")
    assert built.split.kind == "plugged"
    from raysys.data.splitting import SPLITS

    del SPLITS["plugged"]


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        (["no_such_module_at_all"], "here: plugins: cannot import 'no_such_module_at_all'"),
        (["raysys.no_such_part"], "here: plugins: cannot import 'raysys.no_such_part'"),
        ("json", "here: plugins: a list of module names is expected, not 'json'"),
        ([3], "here: plugins: a list of module names is expected, not [3]"),
        ({"a": 1}, "here: plugins: a list of module names is expected"),
    ],
)
def test_plugins_that_cannot_be_imported_are_told(plugins, expected):
    assert message(build, Whole, {"plugins": plugins}, "here").startswith(expected)


@pytest.mark.parametrize("name", ["", ".relative"])
def test_a_plugin_name_that_is_no_module_name_is_told(name):
    assert "here: plugins: cannot import" in message(build, Whole, {"plugins": [name]}, "here")


# One source at the top level


def ingest_config(node, *settings) -> IngestConfig:
    return build(IngestConfig, apply_settings({"project": "p", **node}, settings), "here")


def test_one_source_may_be_written_at_the_top_level():
    loose = ingest_config({"format": "delimited", "path": "a.csv", "columns": {"user_id": "uid"}})
    listed = ingest_config({"sources": [{"format": "delimited", "path": "a.csv", "columns": {"user_id": "uid"}}]})
    assert loose == listed
    assert listed.sources[0].columns.user_id == "uid"


def test_set_path_reaches_the_one_source_however_it_is_written():
    listed = {"sources": [{"format": "delimited", "path": "a.csv"}]}
    for node in (listed, {"format": "delimited", "path": "a.csv"}, {"format": "delimited"}):
        assert ingest_config(node, "path=b.csv").sources[0].path == "b.csv"
    assert ingest_config(listed, "sources.0.path=b.csv") == ingest_config(listed, "path=b.csv")
    changed = ingest_config(listed, "path=b.csv", "event=click")
    assert (changed.sources[0].event, changed.sources[0].format) == ("click", "delimited")


def test_loose_keys_with_two_sources_are_refused():
    two = {"sources": [{"format": "delimited", "path": "a.csv"}] * 2}
    assert "here: unknown key 'path'" in message(ingest_config, two, "path=b.csv")


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"format": "delimted", "path": "x"}, "here: sources.0: unknown format 'delimted'; did you mean 'delimited'?"),
        ({"format": "delimited", "path": "x", "delimeter": ";"}, "did you mean 'delimiter'?"),
        ({"format": "delimited"}, "here: sources.0.path: Field required"),
        ({"sources": [{"path": "x"}]}, "here: sources.0: `format:` is missing; allowed: delimited, jsonl, movielens,"),
        ({"sources": []}, "here: sources: "),
        ({}, "here: sources: Field required"),
        ({"sources": "logs/"}, "here: sources: Input should be a valid tuple, not 'logs/'"),
        ({"sources": [{"format": "delimited", "path": "x"}], "histroy": ["a"]}, "did you mean 'history'?"),
        ({"project": "../up", "format": "synthetic"}, "here: project: String should match pattern"),
        ({"format": "synthetic", "max_rejected": 2}, "here: max_rejected: Input should be less than or equal to 1"),
        ({"format": "synthetic", "split": {"kind": "tme"}}, "here: split: unknown kind 'tme'; did you mean 'time'?"),
        (
            {"format": "synthetic", "split": {"kind": "time", "valid_from": "2024-02-01", "test_from": "2024-01-01"}},
            "here: split: valid_from (2024-02-01 00:00:00) must be before test_from (2024-01-01 00:00:00)",
        ),
    ],
)
def test_mistakes_in_an_ingest_config_are_told(node, expected):
    found = message(ingest_config, node)
    assert expected in found


def test_a_resolved_config_builds_the_same_again():
    config = ingest_config(
        {"format": "synthetic", "split": {"kind": "time", "valid_from": "2023-12-01", "test_from": "2023-12-05 12:00"}}
    )
    assert build(IngestConfig, parse_value(dump_yaml(config.model_dump(mode="json"))), "again") == config
