"""raysys recommend: lists for many users, as parquet files that anybody can check."""

from typing import Annotated

import typer

from raysys.commands.options import AsJson, Root, RunName, print_json

app = typer.Typer(add_completion=False)


@app.command()
def recommend(
    run: RunName,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="DIRECTORY", help="Where the lists go: a directory or a URI.")
    ],
    users: Annotated[str, typer.Option(help="test, all, or a file of user ids.")] = "test",
    k: Annotated[int, typer.Option(help="Items per user.")] = 10,
    items: Annotated[
        str | None, typer.Option(metavar="FILE", help="Recommend only the items of this file of item ids.")
    ] = None,
    exclude_seen: Annotated[
        bool | None,
        typer.Option(
            "--exclude-seen/--keep-seen", help="Leave out what a user had, or not; by default as the run is evaluated."
        ),
    ] = None,
    users_per_part: Annotated[int, typer.Option(help="Users in one parquet file.")] = 10_000,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset directory; by default the one the run was trained on.")
    ] = None,
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Write user_id, rank (from 1), item_id, score and what each task predicts for every user asked for.

    Stopped or killed, the same command goes on. _manifest.json is there when the lists are complete.
    """
    import raysys
    from raysys.bulk.recommend import recommend_users
    from raysys.progress import console

    found = recommend_users(
        raysys.load(run, root), output, users, k, items, exclude_seen, users_per_part, dataset_path=dataset
    )
    for count, what in (
        (found.unknown_users, "users are not in the dataset and have no list"),
        (found.unknown_items, "items are unknown to training and in no list"),
    ):
        if count:
            console.print(f"  {count:,} {what}", soft_wrap=True)
    print_json({"output": output, **found.model_dump()}) if json else print(output)
