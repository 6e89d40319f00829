"""The command `raysys VERB`. Verbs come from installed packages through the entry-point group `raysys.commands`."""

import importlib.metadata
import os
import sys

import click
import typer
from typer.core import TyperGroup

from raysys.errors import UserError

GROUP = "raysys.commands"


class Verbs(TyperGroup):
    """Finds verbs by entry point and imports one only when it is called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of their packages' entry points."""
        return list(_entry_points())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb."""
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
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code."""
    try:
        result = typer.main.get_command(app).main(arguments, prog_name="raysys", standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


if __name__ == "__main__":
    main()
