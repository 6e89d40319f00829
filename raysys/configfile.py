"""YAML files and dotted paths: sparse in, checked, resolved out. Knows nothing of what the configs mean."""

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from raysys.component import FrozenConfig
from raysys.errors import UserError

C = TypeVar("C", bound=FrozenConfig)
Node = dict[str, Any]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_STEP = re.compile(r"^(?P<key>[^\[\]]+)(?:\[(?P<kind>\w+)\])?$")


class _Loader(yaml.SafeLoader):
    """SafeLoader as of YAML 1.2: 1e-3 is a number, `on` and `no` are words; refuses a key written twice."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what the loader would not read as text: the text "1e-3"."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Node:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key is a plain name", problem_mark=key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark)
        seen.add(key)
    found: Node = loader.construct_mapping(node, deep=True)  # type: ignore[assignment]
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_BOOL = "tag:yaml.org,2002:bool"
for _reader_or_writer in (_Loader, _Dumper):
    _reader_or_writer.yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
        for letter, resolvers in _reader_or_writer.yaml_implicit_resolvers.items()
    }
    _reader_or_writer.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
    _reader_or_writer.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def read_yaml(path: str | Path) -> Node:
    """Read a sparse config; `${NAME:-default}` in strings is filled from the environment.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; write one with `raysys init LOG` or start from examples/")
    try:
        node = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no text, or a 13th month
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, this file holds {type(node).__name__}")
    expanded: Node = _expand(node, str(path))
    return expanded


def parse_value(text: str) -> Any:
    """Read the value of `--set a.b=VALUE` as YAML would.

    Raises:
        UserError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{text}: not valid YAML: {' '.join(str(error).split())}") from None


def dump_yaml(node: Mapping[str, Any]) -> str:
    """Write a config as YAML, keys in their own order."""
    return yaml.dump(dict(node), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def apply_settings(node: Node, settings: Sequence[str]) -> Node:
    """Apply `a.b=c` settings (as given to --set) to a sparse config and return the changed copy."""
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator or not path:
            raise UserError(f"--set {setting}: write it as PATH=VALUE, for example --set optimizer.learning_rate=0.01")
        try:
            value = parse_value(text)
        except UserError as error:
            raise UserError(f"--set {path}={error}") from None
        node = set_path(node, path, value)
    return node


def set_path(node: Node, path: str, value: Any) -> Node:
    """Return a copy of a sparse config with the value at a dotted path set.

    `x.kind` replaces node x by that kind's defaults; `x[hstu].num_heads` applies only where x is of kind hstu;
    numbers index lists (`sources.0.path`).

    Raises:
        UserError: the path goes through a value that is not a mapping or list.
    """
    changed: Node = _set(node, path.split("."), value, path)
    return changed


def _set(node: Any, steps: list[str], value: Any, path: str) -> Any:
    if isinstance(node, list):
        if not steps[0].isdigit() or int(steps[0]) >= len(node):
            raise UserError(f"{path}: {steps[0]!r} is not one of the {len(node)} entries; count from 0")
        place = int(steps[0])
        return [_set_one(old, steps[1:], value, path) if i == place else old for i, old in enumerate(node)]
    if node is not None and not isinstance(node, dict):
        raise UserError(f"{path}: there is a plain value ({node!r}) where {steps[0]!r} should be set")
    node = dict(node or {})
    match = _STEP.match(steps[0])
    if match is None:
        raise UserError(f"{path}: {steps[0]!r} is not a key, key[kind] or number")
    key, kind = match["key"], match["kind"]
    if kind is not None:
        part = node.get(key) or {}
        if not isinstance(part, dict):
            raise UserError(f"{path}: {key!r} is {part!r}, which has no kind")
        if "kind" not in part:
            raise UserError(f"{path}: the config does not say which kind {key!r} is; set {key}.kind first")
        if part["kind"] != kind:
            return node
    at_root = len(steps) == path.count(".") + 1  # there, `format` belongs to the one source that is written loosely
    if len(steps) == 1 and not at_root and key in ("kind", "format") and key in node and node[key] != value:
        return {key: value}
    node[key] = _set_one(node.get(key), steps[1:], value, path)
    return node


def _set_one(old: Any, steps: list[str], value: Any, path: str) -> Any:
    return _set(old, steps, value, path) if steps else value


def build(model: type[C], node: Node, where: str) -> C:
    """Validate a sparse config, after importing its `plugins`, into the given config model.

    Raises:
        UserError: with one line for every finding, each naming the place, the value and what is allowed.
    """
    load_plugins(node.get("plugins") or [], where)
    try:
        return model.model_validate(node)
    except ValidationError as error:
        found = error.errors()
        raise UserError("\n".join(_explain(one, where) for one in found if not _follows(one, found))) from None


def load_plugins(names: Any, where: str) -> None:
    """Import the modules a config names under `plugins`, so that they can add to the registries."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: plugins: a list of module names is expected, not {names!r}")
    for name in names:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError, TypeError) as error:  # the last two: no module name at all, or a relative one
            raise UserError(
                f"{where}: plugins: cannot import {name!r} ({error}); put its folder on PYTHONPATH or install it"
            ) from error


def _follows(finding: Any, others: Sequence[Any]) -> bool:
    """Tell whether a list is too short only because an entry of it is wrong: the entry's own line says enough."""
    place = finding["loc"]
    return finding["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in others
    )


def _explain(finding: Any, where: str) -> str:
    place = ".".join(str(step) for step in finding["loc"])
    message = finding["msg"].removeprefix("Value error, ")
    if finding["type"] not in ("unknown_key", "choice", "missing", "value_error"):
        message += f", not {finding['input']!r}"
    return f"{where}: {place}: {message}" if place else f"{where}: {message}"


def _expand(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: _expand(inner, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, where) for inner in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = os.environ.get(name, default)
        if found is None:
            raise UserError(f"{where}: ${{{name}}} is not set; set it or write ${{{name}:-default}}")
        return found

    return _VARIABLE.sub(fill, value)


def store_root() -> str:
    """Return the directory of datasets, runs, aliases and studies where neither config nor option names one."""
    return os.environ.get("RAYSYS_ROOT", "store")
