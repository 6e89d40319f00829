"""The command `raysys VERB`. Verbs come from installed packages through the entry-point group `raysys.commands`."""

import importlib.metadata
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from raysys.errors import UserError

GROUP = "raysys.commands"


class Verbs(TyperGroup):
    """Finds verbs by entry point and imports one only when it is called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs in the order of their packages' entry points."""
        return list(_entry_points())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load a verb; None where there is none of that name."""
        point = _entry_points().get(cmd_name)
        if point is None:
            return None
        command = typer.main.get_command(point.load())
        command.name = cmd_name
        return command


app = typer.Typer(cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def raysys() -> None:
    """From interaction logs to recommendations: ingest, train, tune, evaluate, serve."""


def main() -> None:
    """Run the command; exit 0 when well, 2 for the user's input, 1 for anything else."""
    sys.path.insert(0, os.getcwd())  # plugins may lie beside the config
    try:
        app(prog_name="raysys")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


if __name__ == "__main__":
    main()
