"""raysys schema: the JSON schema of a config, so that editors complete and check it."""

from typing import Annotated

import typer

from raysys.commands.options import print_json
from raysys.errors import UserError, nearest

app = typer.Typer(add_completion=False)
_MODELS = {
    "ingest": ("raysys.data.config", "IngestConfig"),
    "train": ("raysys.config", "RunConfig"),
    "tune": ("tuning.config", "TuneConfig"),
    "serve": ("serving.config", "ServeConfig"),
}


@app.command()
def schema(
    config: Annotated[str, typer.Argument(help="ingest, train, tune or serve.")] = "train",
    plugins: Annotated[list[str] | None, typer.Option("--plugin", help="Import this module first.")] = None,
) -> None:
    """Print the JSON schema of a config."""
    import importlib

    from raysys.configfile import load_plugins

    load_plugins(plugins or [], "--plugin")
    if config not in _MODELS:
        raise UserError(f"schema {config!r}: one of {', '.join(_MODELS)}{nearest(config, _MODELS)}")
    module, name = _MODELS[config]
    model = getattr(importlib.import_module(module), name)  # by name: the arrow from tuning and serving points here
    print_json(model.model_json_schema())
