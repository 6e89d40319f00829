"""raysys data: look at a dataset."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysys.commands.options import AsJson, print_json

if TYPE_CHECKING:
    from raysys.data.dataset import Dataset

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Look at a dataset.")
DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET", help="Dataset directory, or one version inside it.")]


@app.command()
def show(dataset: DatasetPath, json: AsJson = False) -> None:
    """Show counts, history lengths, popularity, time range and rejected rows."""
    from rich.console import Console

    from raysys.data.dataset import Dataset

    facts = describe(Dataset.open(dataset))
    if json:
        print_json(facts)
        return
    console = Console(highlight=False)
    for name, value in facts.items():
        console.print(f"{name.replace('_', ' ')}: {_shown(value)}", soft_wrap=True)


@app.command()
def sample(
    dataset: DatasetPath,
    users: Annotated[int, typer.Option(help="How many users.")] = 3,
    events: Annotated[int, typer.Option(help="Most events per user: the newest.")] = 10,
) -> None:
    """Print a few users as a person would read them."""
    import numpy as np
    from rich.console import Console

    from raysys.data.batches import ShardReader
    from raysys.data.dataset import Dataset

    opened = Dataset.open(dataset)
    reader, console = ShardReader(opened), Console(highlight=False, markup=False)
    chosen = np.linspace(0, opened.manifest.num_users - 1, min(users, opened.manifest.num_users)).astype(np.int64)
    for row, user in zip(chosen, reader.user_ids(chosen).to_pylist(), strict=True):
        console.print(f"user {user}", style="bold")
        for line in _lines(opened, reader.rows(np.array([row])), events):
            console.print("  " + line, soft_wrap=True)


@app.command()
def versions(dataset: DatasetPath, json: AsJson = False) -> None:
    """List the whole versions of a dataset, oldest first."""
    from raysys.data.dataset import Dataset
    from raysys.data.dataset import versions as list_versions
    from raysys.errors import UserError

    found = [Dataset.open(path).manifest for path in list_versions(dataset)]
    if not found:
        raise UserError(f"{dataset}: not a dataset directory; make one with `raysys ingest CONFIG`")
    if json:
        print_json([manifest.model_dump(mode="json", exclude={"config"}) for manifest in found])
        return
    for one in found:
        counts = f"{one.num_users:,} users  {one.num_items:,} items  {one.num_events:,} events"
        print(f"{one.version}  {counts}  {one.fingerprint[:12]}")


def describe(dataset: "Dataset") -> dict[str, Any]:
    """Return what a person wants to know of a dataset, as plain values."""
    import numpy as np

    manifest, rows = dataset.manifest, dataset.rows
    lengths = rows["train_tokens"].to_numpy()
    popularity = np.sort(dataset.catalog.popularity[2:])[::-1]
    top = max(1, len(popularity) // 100)
    return {
        "path": str(dataset.path),
        "fingerprint": manifest.fingerprint,
        "users": manifest.num_users,
        "items": manifest.num_items,
        "events": manifest.num_events,
        "events_by_split": manifest.events_by_split,
        "event_names": list(manifest.event_names),
        "history": list(manifest.history),
        "labels": {name: {"training_mean": mean} for name, mean in manifest.label_means.items()},
        "density": manifest.num_events / max(manifest.num_users * manifest.num_items, 1),
        "history_length": {f"p{q}": float(np.percentile(lengths, q)) for q in (10, 50, 90, 100)}
        if len(lengths)
        else {},
        "share_of_top_1_percent_items": float(popularity[:top].sum() / max(popularity.sum(), 1)),
        "time_range": [_moment(time) for time in manifest.time_range] if manifest.time_range else None,
        "rows_read": manifest.rows,
        "rows_kept": manifest.kept,
        "rows_rejected": manifest.rejected,
    }


def _lines(dataset: "Dataset", rows: Any, most: int) -> list[str]:
    catalog, vocabulary, names = dataset.catalog, dataset.vocabulary, dataset.manifest.event_names
    lines = []
    for at in range(max(0, len(rows.items) - most), len(rows.items)):
        item = int(rows.items[at])
        if item >= 2:
            title = catalog.titles([item])[0] or vocabulary.decode([item])[0].as_py()  # type: ignore[arg-type]
        else:
            title = "(an item that training never saw)"
        time = _moment(int(rows.times[at])) if dataset.manifest.time_range else f"#{at + 1}"
        labels = " ".join(f"{name}={values[at]:g}" for name, values in rows.labels.items())
        mark = ("", "[valid]", "[test]")[rows.marks[at]]
        lines.append(f"{time}  {names[rows.events[at]]:<12} {title} {labels} {mark}")
    return lines


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
