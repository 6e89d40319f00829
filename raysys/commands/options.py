"""Options that several verbs share, and how they speak: results on stdout, everything else on stderr."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from raysys.component import FrozenConfig

C = TypeVar("C", bound=FrozenConfig)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, a run id or project@alias.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Set anything in the config by its dotted path.")
]
Root = Annotated[
    str | None, typer.Option("--root", help="Where datasets, runs and aliases live [$RAYSYS_ROOT or store].")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would run, and do nothing.")]


def load_config(model: type[C], path: Path, settings: list[str] | None, **given: Any) -> C:
    """Read, edit and validate a config; options given on the command line win over the file."""
    from raysys.configfile import apply_settings, build, read_yaml, store_root

    node = {"root": store_root(), **read_yaml(path)}
    node |= {key: value for key, value in given.items() if value is not None}
    return build(model, apply_settings(node, settings or []), str(path))


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    print(json.dumps(_without_nan(value), indent=1, default=str))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a metric that is undefined is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_plan(plan: dict[str, Any]) -> None:
    """Print what a --dry-run found, bytes in a form for people."""
    from raysys.progress import console

    for name, value in plan.items():
        size = name.endswith(("bytes", "bytes_per_worker"))
        shown = f"{value / (1 << 20):,.1f} MiB" if size else value
        console.print(f"  {name.replace('_bytes', '').replace('_', ' ')}: {shown}", soft_wrap=True, markup=False)
