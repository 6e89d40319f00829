"""Collects what a finished run's directory holds, and writes it as one page."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raysys.component import kind_of
from raysys.data.dataset import Dataset
from raysys.data.files import write_bytes
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.baselines.popularity import Popularity
from raysys.evaluation.evaluate import rank_users
from raysys.evaluation.examples import Examples, find_examples
from raysys.evaluation.judge import Judge
from raysys.evaluation.outcomes import FOLDER, Kept
from raysys.evaluation.page import RunFacts, Slices, in_page_order, page
from raysys.evaluation.page_reliability import Reliabilities, reliabilities
from raysys.evaluation.page_tables import headlines
from raysys.evaluation.protocol import EvalReport, depth_of
from raysys.evaluation.summary import POPULARITY, estimate_slices
from raysys.runs import Run
from raysys.training.loop import read_history

REPORT = "report.html"


def write_report(run: Run) -> Path:
    """Write the page of a finished run into its directory, in the place of an older one, and return its path.

    Slices of popularity and examples are read from the dataset; where it is gone or has changed since, the page does
    without and says so.

    Raises:
        UserError: the run's files cannot be read by this raysys.
    """
    path = run.path / REPORT
    write_bytes(page(run_facts(run)).encode(), path)
    return path


def run_facts(run: Run) -> RunFacts:
    """Collect what the page of a run tells."""
    record, reports, parent = run.record, _reports(run), _parent(run)
    judge = _judge(run)
    comparable = isinstance(parent, Run) and parent.record.dataset_fingerprint == record.dataset_fingerprint
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return RunFacts(
        project=record.project,
        run_id=record.run_id,
        created=record.created,
        facts=_facts(run, parent),
        place=f"{run.path}; dataset {record.dataset}, fingerprint {record.dataset_fingerprint}; {versions}",
        config=(run.path / "config.yaml").read_text(encoding="utf-8"),
        confidence=run.config.evaluation.confidence,
        best_epoch=record.best_epoch,
        history=read_history(run.path),
        monitor=_monitor(run),
        reports=reports,
        parent_reports=_reports(parent) if isinstance(parent, Run) and comparable else [],
        popular_slices=_popular_slices(judge, reports) if isinstance(judge, Judge) else {},
        reliabilities=_reliabilities(run, reports),
        examples=_examples(run, judge, reports) if isinstance(judge, Judge) else f"There are no examples: {judge}.",
    )


def _facts(run: Run, parent: Run | str | None) -> Mapping[str, str]:
    record, config, manifest = run.record, run.config, run.manifest
    size = config.model.backbone.model_dump(exclude={"kind"})
    shape = {"width": config.model.width, "max_length": config.model.max_length, **size}
    model = ", ".join(f"{name} {value}" for name, value in shape.items())
    kept = f" (epoch {record.best_epoch} kept)" if record.epochs > 1 else ""
    facts = {
        "dataset": f"{manifest.project} {record.dataset_version}: {manifest.num_users:,} users, "
        f"{manifest.num_items:,} items, {manifest.num_events:,} events",
        "parent": parent.record.run_id if isinstance(parent, Run) else parent,
        "tasks": ", ".join(config.tasks),
        "backbone": f"{kind_of(config.model.backbone)}: {model}",
        "parameters": f"{record.parameters:,}",
        "epochs": f"{record.epochs}{kept}",
        "time": f"{record.seconds:,.0f} seconds",
    }
    return {name: value for name, value in facts.items() if value is not None}


def _reports(run: Run) -> list[EvalReport]:
    try:
        return in_page_order([EvalReport.from_json(node) for node in run.reports])
    except (KeyError, TypeError):
        raise UserError(f"{run.path / 'report.json'}: not as this raysys writes it; evaluate the run again") from None


def _parent(run: Run) -> Run | str | None:
    """Return the parent run, its name where it is gone, or None where the run began from scratch."""
    if run.record.parent is None:
        return None
    try:
        return Run.open(run.record.parent)
    except UserError:
        return f"{Path(run.record.parent).name} (gone)"


def _monitor(run: Run) -> str | None:
    stopping = run.config.training.early_stopping
    return None if stopping is None else stopping.metric


def _judge(run: Run) -> Judge | str:
    """Return what evaluates on the run's dataset, or why nothing can be read from there."""
    record = run.record
    try:
        dataset = Dataset.open(record.dataset)
    except UserError:
        return f"the dataset {record.dataset} is not there any more"
    if dataset.manifest.fingerprint != record.dataset_fingerprint:
        return f"the dataset {record.dataset} has changed since the run"
    return Judge.of(dataset, run.config.evaluation, run.config.model.max_length)


def _popular_slices(judge: Judge, reports: list[EvalReport]) -> Slices:
    """Return the slices of popularity on the split that the page shows first."""
    if not reports or not reports[0].slices:
        return {}
    split, task = Split[reports[0].split.upper()], headlines(reports[0])[0].rpartition(".")[0]
    scorer = Popularity(Popularity.Config()).fit(judge.dataset, judge.reader)
    outcomes = rank_users(judge, {POPULARITY: scorer}, split, judge.rows(split), task)[POPULARITY]
    return estimate_slices(judge.facts, judge.config, outcomes)


def _reliabilities(run: Run, reports: list[EvalReport]) -> Reliabilities:
    """Return those of the split that the page shows first."""
    if not reports or not (run.path / FOLDER / f"{reports[0].split}.parquet").is_file():
        return {}
    kept = Kept.read(run.path, reports[0].split)
    return reliabilities(kept.predictions(np.arange(kept.table.num_rows)))


def _examples(run: Run, judge: Judge, reports: list[EvalReport]) -> Examples | str:
    split = reports[0].split if reports else ""
    if not any(depth_of(name) for name in (reports[0].metrics if reports else ())):
        return "There are no examples: nobody has a list of items that was evaluated."
    try:
        kept = Kept.read(run.path, split)
    except UserError as error:
        return f"There are no examples: {error}."
    return find_examples(kept, Split[split.upper()], judge.reader, run.vocabulary, run.catalog)
