"""Makes exports of a run, each a run directory again, and measures them beside it. `run.json` is written last."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from raysys.data.dataset import Dataset
from raysys.data.files import link_or_copy, write_bytes
from raysys.errors import UserError, nearest
from raysys.evaluation.calibration.of_tasks import FILE as CALIBRATION
from raysys.exported import OWN_DATASET, Exported
from raysys.model.program import made_with
from raysys.runs import RECORD, VALUES, Run, RunRecord, new_directory
from serving.export import KINDS
from serving.export.kind import STAGES, Draft
from serving.export.measuring import ORIGINAL, Measurement, measure

EXPORT = "export.json"
"""In the directory of an export: its measurements in full."""
_COPIED = ("config.yaml", "dataset.json", VALUES, "vocabulary.arrow", "catalog.arrow", "history.jsonl", CALIBRATION)
Settings = Mapping[str, int]


@dataclass(frozen=True)
class Exports:
    """What was made, by kinds, and what could not be made, with the reason."""

    runs: Mapping[str, Run]
    measured: Mapping[str, Measurement]
    """Of the run itself too, which comes first."""
    refused: Mapping[str, str]


def export(run: Run, wanted: Sequence[str], settings: Settings, parent: Path | None = None) -> Exports:
    """Make exports of a run; `wanted` are kinds, several of them in one export joined by +. None wanted means each.

    They lie beside the run, or in the directory `parent`, named after run and kinds.

    Raises:
        UserError: a wanted kind is not known, does not go with another or cannot be made. Nothing is left then.
    """
    dataset, parsed = _dataset(run), _parsed(wanted, settings)
    drafts: dict[str, Draft] = {}
    refused: dict[str, str] = {}
    try:
        for name, kinds in parsed.items():
            try:
                drafts[name] = _draft(run, dataset, kinds, settings, parent or run.path.parent)
            except UserError as error:
                if wanted:
                    raise
                refused[name] = str(error)
        made = {name: Run(draft.folder, _record(draft, parsed[name], settings)) for name, draft in drafts.items()}
        datasets = {name: draft.dataset for name, draft in drafts.items()}
        measured = measure({ORIGINAL: run, **made}, {ORIGINAL: dataset, **datasets})
    except BaseException:
        for draft in drafts.values():
            shutil.rmtree(draft.folder)
        raise
    for name, one in made.items():
        _finish(one, measured[ORIGINAL], measured[name])
    return Exports({name: Run.open(one.path) for name, one in made.items()}, measured, refused)


def _dataset(run: Run) -> Dataset:
    """Return the dataset of a run, as training saw it.

    Raises:
        UserError: it is gone or has changed, or the run is an export itself.
    """
    record = run.record
    if record.exported is not None:
        raise UserError(
            f"RUN {record.run_id}: an export already ({'+'.join(record.exported.kinds)}); export the run that it was "
            f"made of, {record.exported.of}, with kinds joined by +, as in --kind pruned+int8"
        )
    dataset = Dataset.open(record.dataset)
    if dataset.manifest.fingerprint != record.dataset_fingerprint:
        raise UserError(f"{record.dataset}: has changed since run {record.run_id}, so nothing can be measured with it")
    return dataset.with_validation() if run.config.training.include_validation else dataset


def _parsed(wanted: Sequence[str], settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the kinds of each export by its name, in the order in which they are applied.

    Raises:
        UserError: a kind is unknown, two do the same thing, or a setting belongs to none of them.
    """
    texts = wanted or [name for name, kind in KINDS.items() if not kind.settings() or kind.settings() & set(settings)]
    found = {}
    for text in texts:
        names = text.split("+")
        for name in names:
            if name not in KINDS:
                raise UserError(
                    f"--kind {text}: no kind {name!r}{nearest(name, KINDS)} (there are: {', '.join(KINDS)})"
                )
        stages = [KINDS[name].stage for name in names]
        if len(set(stages)) < len(stages):
            raise UserError(f"--kind {text}: at most one of bf16 and int8 and one of compiled and onnx go together")
        ordered = tuple(sorted(names, key=lambda name: STAGES.index(KINDS[name].stage)))
        found["+".join(ordered)] = ordered
    used = {key for kinds in found.values() for name in kinds for key in KINDS[name].settings()}
    for key in set(settings) - used:
        raise UserError(f"--{key.replace('_', '-')}: without effect; it belongs to the kind pruned")
    return found


def _draft(run: Run, dataset: Dataset, kinds: Sequence[str], settings: Settings, parent: Path) -> Draft:
    parts = [KINDS[name].with_settings(settings) for name in kinds]
    folder = new_directory("", "", "", parent / f"{run.record.run_id}-{'-'.join(kinds)}")
    try:
        for name in _COPIED:
            if (run.path / name).is_file():
                link_or_copy(run.path / name, folder / name)
        draft = Draft(run, folder, dataset, run.network, run.network.state_dict())
        for part in parts:
            draft = part.apply(draft)
        save_file({name: tensor.contiguous() for name, tensor in draft.state.items()}, folder / "model.safetensors")
        if draft.dataset.path == folder:
            write_bytes(draft.dataset.manifest.model_dump_json(indent=1).encode(), folder / "dataset.json")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return draft


def _record(draft: Draft, kinds: tuple[str, ...], settings: Settings) -> RunRecord:
    known = {key: settings[key] for name in kinds for key in KINDS[name].settings() if key in settings}
    source = str(draft.run.path.absolute())
    return draft.run.record.model_copy(
        update={
            "run_id": draft.folder.name,
            "created": datetime.now(UTC),
            "parent": source,
            "dataset": OWN_DATASET if draft.dataset.path == draft.folder else draft.run.record.dataset,
            "dataset_fingerprint": draft.dataset.manifest.fingerprint,
            "parameters": sum(part.numel() for part in draft.network.parameters()),
            "valid": {},
            "test": {},
            "exported": Exported(of=source, kinds=kinds, settings=known, made_with=made_with()),
        }
    )


def _finish(run: Run, original: Measurement, found: Measurement) -> None:
    """Write what was measured, and the record, which makes the export a run."""
    found.keep(run.path)
    write_bytes(json.dumps([found.report.to_json()], indent=1).encode(), run.path / "report.json")
    assert run.record.exported is not None
    exported = run.record.exported.model_copy(
        update={"measured": {ORIGINAL: original.figures, "export": found.figures}}
    )
    whole = {**exported.model_dump(), "split": found.report.split, "metric": found.metric}
    write_bytes(json.dumps(whole, indent=1).encode(), run.path / EXPORT)
    metrics = {name: value.mean for name, value in found.report.metrics.items() if math.isfinite(value.mean)}
    record = run.record.model_copy(update={"exported": exported, found.report.split: metrics})
    write_bytes(record.model_dump_json(indent=1).encode(), run.path / RECORD)
