"""raysys evaluate: how good a run is, or anybody's list of recommendations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raysys.commands.options import AsJson, Root, print_json
from raysys.errors import UserError

if TYPE_CHECKING:
    from raysys.data.schema import Split
    from raysys.evaluation.protocol import EvalReport

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run directory, a run id or project@alias.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset directory; by default the one the run was trained on.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="PARQUET",
            help="Score these lists (user_id, rank, item_id; a file or a directory) instead; with RUN, beside it.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which held-out events: valid or test.")] = "test",
    root: Root = None,
    json: AsJson = False,
) -> None:
    """Rank the whole catalogue for every user with held-out events, beside baselines, with intervals.

    --json prints {"split", "protocol", "metrics": {metric: {"mean", "low", "high", "count"}}, "baselines": {baseline:
    {metric: {...}}}, "slices": {slice: {metric: {...}}}, "num_users", "num_users_of_split", "notes": [text]}.
    """
    from raysys.data.schema import Split
    from raysys.evaluation.report import print_report

    if split not in ("valid", "test"):
        raise UserError(f"--split {split}: valid or test")
    which = Split[split.upper()]
    if predictions is None:
        if run is None:
            raise UserError("evaluate: name a RUN, or give --predictions PARQUET with --dataset DIRECTORY")
        report = _of_run(run, dataset, which, root)
    else:
        report = _of_predictions(predictions, run, dataset, which, root)
    print_json(report.to_json()) if json else print_report(report)


def _of_run(name: str, dataset: str | None, split: "Split", root: str | None) -> "EvalReport":
    import raysys
    from raysys.data.dataset import Dataset
    from raysys.training.fit import evaluate_splits

    run = raysys.load(name, root)
    opened = Dataset.open(dataset or run.record.dataset)
    if opened.manifest.fingerprint != run.record.dataset_fingerprint:
        raise UserError(
            f"--dataset {opened.path}: not the dataset of run {run.record.run_id} (fingerprints differ), so item "
            "indices mean other items; ingest the same logs with the same config, or train a run on this dataset"
        )
    found = evaluate_splits(run, opened, (split,))
    if not found:
        raise UserError(f"{opened.path}: no user has {split.name.lower()} events")
    return found[0]


def _of_predictions(
    path: Path, name: str | None, dataset: str | None, split: "Split", root: str | None
) -> "EvalReport":
    import raysys
    from raysys.data.dataset import Dataset
    from raysys.evaluation.predictions import evaluate_predictions

    run = raysys.load(name, root) if name else None
    if run is None and dataset is None:
        raise UserError("--predictions: say which --dataset holds the held-out events (or name a RUN to compare with)")
    opened = Dataset.open(dataset or run.record.dataset)  # type: ignore[union-attr]
    network = (run.network, run.config.evaluation, run.config.model.max_length) if run else None
    return evaluate_predictions(path, opened, split, network)
