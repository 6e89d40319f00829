"""raysys recommend: lists for many users, as a parquet file that anybody can check."""

from pathlib import Path
from typing import Annotated

import typer

from raysys.commands.options import AsJson, Root, RunName, print_json

app = typer.Typer(add_completion=False)


@app.command()
def recommend(
    run: RunName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.parquet", help="Where the lists go.")],
    users: Annotated[str, typer.Option(help="test, all, or a file of user ids.")] = "test",
    k: Annotated[int, typer.Option(help="Items per user.")] = 10,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset directory; by default the one the run was trained on.")
    ] = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Write user_id, rank (from 1), item_id, score for every user asked for."""
    import raysys
    from raysys.bulk import recommend_users

    opened = raysys.load(run, root)
    count = recommend_users(opened, users, output, k, dataset)
    print_json({"output": str(output), "users": count, "k": k, "run": opened.record.run_id}) if json else print(output)
