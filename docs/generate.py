"""Writes the reference pages from the code: every config key from pydantic, every verb from typer."""

import functools
import importlib.metadata
import inspect
import operator
import sys
import types
import typing
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raysys.component import FrozenConfig, OneOf
from raysys.config import RunConfig
from raysys.data.config import IngestConfig
from raysys.data.formats import FORMATS
from raysys.data.formats.source import SourceConfig
from raysys.data.splitting import SPLITS
from raysys.evaluation.baselines import BASELINES
from raysys.evaluation.calibration import CALIBRATIONS
from raysys.model.adapt import ADAPTS
from raysys.model.backbones import BACKBONES
from raysys.model.items import ITEM_ENCODERS
from raysys.model.sharing import SHARINGS
from raysys.optimizer import OPTIMIZERS
from raysys.tasks import TASKS
from raysys.tasks.objectives import OBJECTIVES
from raysys.weighting import WEIGHTINGS
from serving.config import ServeConfig
from serving.index import INDEXES
from serving.rules import RULES
from serving.stores import STORES
from tuning.config import TuneConfig
from tuning.distributions import DISTRIBUTIONS
from tuning.objectives import PICKS
from tuning.schedulers import SCHEDULERS
from tuning.searchers import SEARCHERS

OUTPUT = Path(__file__).parent / "reference"
CONFIGS: dict[str, type[BaseModel]] = {
    "raysys ingest": IngestConfig,
    "raysys train": RunConfig,
    "raysys tune": TuneConfig,
    "raysys serve": ServeConfig,
}
REGISTRIES: dict[str, dict[str, Any]] = {
    "Formats (`sources`, by `format`)": FORMATS,
    "Splits (`split`)": SPLITS,
    "Item encoders (`model.items`)": ITEM_ENCODERS,
    "Backbones (`model.backbone`)": BACKBONES,
    "What point-wise tasks share (`model.sharing`)": SHARINGS,
    "What trains (`adapt`)": ADAPTS,
    "Tasks (`tasks`)": TASKS,
    "Losses of retrieval tasks (`loss`)": OBJECTIVES,
    "Optimizers (`optimizer`)": OPTIMIZERS,
    "Baselines (`evaluation.baselines`)": BASELINES,
    "Calibrations (`evaluation.calibration`)": CALIBRATIONS,
    "Loss weightings (`weighting`)": WEIGHTINGS,
    "Stores (`store` of serving)": STORES,
    "Indexes (`retrieval` of serving)": INDEXES,
    "Business rules (`rules` of serving)": RULES,
    "Distributions (`space` of a search)": DISTRIBUTIONS,
    "Searchers (`searcher` of a search)": SEARCHERS,
    "Schedulers (`scheduler` of a search)": SCHEDULERS,
    "Rules for the winner among several objectives (`pick` of a search)": PICKS,
}


def main() -> None:
    """Write the pages, or with --check exit 1 when one is out of date."""
    pages = {"config.md": config_page(), "command.md": command_page()}
    stale = [name for name, text in pages.items() if not _is_current(OUTPUT / name, text)]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run `make docs`" if stale else 0)
    OUTPUT.mkdir(exist_ok=True)
    for name, text in pages.items():
        (OUTPUT / name).write_text(text)


def config_page() -> str:
    """Return the page of every config and every part that a config can choose."""
    lines = ["# Config reference", "", "Made from the code by `make docs`. Required keys are marked `required`.", ""]
    done: set[type[BaseModel]] = set()
    for verb, model in CONFIGS.items():
        lines += [f"## `{verb}`", "", *_model(model, done)]
    for title, registry in REGISTRIES.items():
        lines += [f"## {title}", ""]
        for kind, part in registry.items():
            lines += [f"### `{kind}`", "", _first_line(part), "", *_table(part.Config), ""]
    return "\n".join(lines).rstrip() + "\n"


def command_page() -> str:
    """Return the page of every verb with its arguments and options."""
    lines = ["# Command reference", "", "Made from the code by `make docs`.", ""]
    for point in importlib.metadata.entry_points(group="raysys.commands"):
        command = typer.main.get_command(point.load())
        lines += _command(f"raysys {point.name}", command)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [line for verb, inner in command.commands.items() for line in _command(f"{name} {verb}", inner)]
    lines = [f"## `{name}`", "", inspect.cleandoc(command.help or ""), "", "| | | default |", "|---|---|---|"]
    for option in command.params:
        shown = (
            option.metavar or option.name.upper() if option.param_type_name == "argument" else ", ".join(option.opts)
        )
        default = "" if option.default in (None, False) or callable(option.default) else f"`{option.default}`"
        lines.append(f"| `{shown}` | {_cell(option.help)} | {default} |")
    return [*lines, ""]


def _model(model: type[BaseModel], done: set[type[BaseModel]]) -> list[str]:
    """Return a model's table, then those of the plain models nested in it."""
    if model in done:
        return []
    done.add(model)
    lines = [*_table(model), ""]
    for name, field in model.model_fields.items():
        for inner in _nested(field.annotation):
            if inner not in done and inner not in (FrozenConfig, SourceConfig) and not _chosen(field):
                lines += [f"#### `{name}` ({inner.__name__})", "", _first_line(inner), "", *_model(inner, done)]
    return lines


def _table(model: type[BaseModel]) -> list[str]:
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "required" if default is PydanticUndefined else _plain(default)
        rows.append(f"| `{name}` | {_type(field)} | {shown} | {_cell(field.description)} |")
    return rows


def _type(field: FieldInfo) -> str:
    chosen = _chosen(field)
    if chosen is not None:
        return "one of " + ", ".join(f"`{kind}`" for kind in chosen.registry)
    plain = _without_metadata(field.annotation)
    text = inspect.formatannotation(plain).replace("typing.", "").replace("NoneType", "null")
    for module in ("raysys.", "tuning.", "serving."):
        if module in text and "OneOf" not in text:
            text = ".".join(text.split(".")[-1:])
    return "mapping of parts" if "OneOf" in text else f"`{text}`".replace("|", "\\|")


def _chosen(field: FieldInfo) -> OneOf | None:
    return next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)


def _without_metadata(annotation: Any) -> Any:
    """Return `Annotated[int, ...] | None` as `int | None`: what validates it is not for readers, and has addresses."""
    inner = [_without_metadata(one) for one in typing.get_args(annotation)]
    if typing.get_origin(annotation) is typing.Annotated:
        return inner[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, inner)
    return annotation


def _nested(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _nested(inner)]


def _plain(default: Any) -> str:
    if isinstance(default, BaseModel):
        kind = getattr(default, "kind", None)
        return f"`{kind}`" if kind else "see below"
    return f"`{default}`".replace("|", "\\|") if default is not None else "null"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _first_line(part: Any) -> str:
    return (inspect.getdoc(part) or "").split("\n\n")[0].replace("\n", " ")


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    main()
