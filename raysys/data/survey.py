"""What the first pass found, made into what the second needs; and what all passes found, made into the manifest."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raysys.data.append import FILES, LANES, read_files, read_lanes
from raysys.data.audit import audit_catalog, audit_features
from raysys.data.catalog import Catalog, vocabularies
from raysys.data.columns import column_schema
from raysys.data.dataset import USERS, Dataset, Manifest, category_path
from raysys.data.files import ArrowParts, digest_of, read_arrow, write_bytes
from raysys.data.inventory import Inventory, shard_fields
from raysys.data.passes.encode import manifest_digest
from raysys.data.passes.plan import NUM_BUCKETS, Plan, Survey, lane_bounds, read_begins, read_summaries, spilled
from raysys.data.passes.route import too_many_events
from raysys.data.privacy import key_check
from raysys.data.schema import MAX_EVENT_NAMES, ROWS
from raysys.data.splitting import SPLITS
from raysys.data.validation import ValidationReport
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError, nearest

_SAMPLES_SHOWN = 3


def read_report(plan: Plan) -> ValidationReport:
    """Add up what the tasks of the first pass counted."""
    names = ("rows", "kept", "rejected", "cleaned")
    found = read_summaries(plan.staging / "reports")
    return ValidationReport.total(ValidationReport(**{name: one[name] for name in names}) for one in found)


def refuse_bad_logs(plan: Plan, report: ValidationReport) -> None:
    """Stop where too many rows are bad, and show the first of them.

    Raises:
        UserError: more rows than `max_rejected` are rejected, or no row is left.
    """
    where = ", ".join(sorted({source.path or str(getattr(source, "format", "")) for source in plan.config.sources}))
    if report.rows == 0:
        raise UserError(f"{where}: the log is empty; nothing to ingest")
    bad = sum(report.rejected.values())
    share = bad / report.rows
    if report.kept and share <= plan.config.max_rejected:
        return
    if not bad:
        raise UserError(f"{where}: no event is left of {report.rows:,} rows ({_counted(report.cleaned)})")
    shown = ""
    for path in sorted((plan.version / "rejected").glob(f"{plan.version.name}-*"))[:_SAMPLES_SHOWN]:
        for row in pq.read_table(path).slice(0, _SAMPLES_SHOWN - shown.count("\n  ")).to_pylist():
            place = row["row"] if row["row"] is not None else f"byte {row['offset']}"
            shown += f"\n  {row['source']}:{place} {row['rule']}: {str(row['record'])[:200]}"
    limit = "no row is good" if not report.kept else f"max_rejected is {plan.config.max_rejected:.0%}"
    raise UserError(
        f"{where}: {bad:,} of {report.rows:,} rows ({share:.1%}) are rejected ({_counted(report.rejected)}), "
        f"and {limit}; mend the log or the column mapping, or raise max_rejected. The first:{shown}"
    )


def survey_of(plan: Plan) -> Survey:
    """Cut the lanes, name the events, resolve the split.

    Raises:
        UserError: the config names an event that no row has, or the split needs times.
    """
    found = read_summaries(plan.staging / "reports")
    base = Dataset.open(plan.base).manifest if plan.base else None
    earlier = read_lanes(plan.base) if plan.base else None
    hours: Counter[int] = Counter()
    for one in found:
        hours.update({int(hour): count for hour, count in one["hours"].items()})
    config: Any = plan.config.split
    has_time = not any(one["without_time"] for one in found) and (earlier is None or earlier["has_time"])
    splitting = SPLITS[config.kind](config)
    if splitting.needs_time and not has_time:
        raise UserError(
            f"split: kind {config.kind!r} needs a time for every event; map columns.timestamp or use leave_one_out"
        )
    if plan.config.labels and not has_time:
        raise UserError("labels: a join within a time needs a time for every event; map columns.timestamp")
    names = _event_names(
        plan, {*(name for one in found for name in one["events"]), *(base.event_names if base else ())}
    )
    newest = [one["newest"] for one in found] + ([earlier["log_end_ms"]] if earlier else [])
    return Survey(
        event_names=names,
        bounds=tuple(earlier["bounds"]) if earlier else lane_bounds(_bucket_counts(plan), plan.config.events_per_shard),
        log_end_ms=max(newest),
        split=_resolved(splitting, hours, earlier),
        has_time=has_time,
        fields=shard_fields(plan.config, plan.fields, base.labels if base else ()),
    )


def _resolved(splitting: Any, hours: Counter[int], earlier: dict[str, Any] | None) -> Any:
    """Return the split with its dates; later days keep the dates that shares of the first ones gave.

    Raises:
        UserError: shares are asked for that only all days together could give.
    """
    config = splitting.config
    asked = config.model_dump(mode="json")
    if earlier is None or asked.get("valid_from", "given") is not None:
        return splitting.resolve(hours)
    dates = ("valid_from", "test_from")
    if asked != earlier["split"] | dict.fromkeys(dates):
        raise UserError(
            "--append: split: shares are of all days together, and the dataset has another split; give valid_from and "
            "test_from, or ingest everything anew without --append"
        )
    return type(config).model_validate(earlier["split"])


def _bucket_counts(plan: Plan) -> np.ndarray:
    counts = np.zeros(NUM_BUCKETS, np.int64)
    for path in spilled(plan.staging / "routed"):
        counts += np.diff(read_begins(path))
    return counts


def _event_names(plan: Plan, found: set[str]) -> tuple[str, ...]:
    names = tuple(sorted(found))
    if len(names) > MAX_EVENT_NAMES:
        raise UserError(too_many_events(list(names)))
    wanted = [("history", name) for name in plan.config.history]
    for label, join in plan.config.labels.items():
        wanted += [(f"labels.{label}", join.on), (f"labels.{label}", join.event or label)]
    for place, name in wanted:
        if name not in names:
            raise UserError(f"{place}: no event {name!r} in the logs{nearest(name, names)} (found: {', '.join(names)})")
    return names


def conclude(plan: Plan, survey: Survey, report: ValidationReport, inventory: Inventory) -> Manifest:
    """Write the files that speak of all lanes together, and return the manifest.

    Raises:
        LeakError: the popularity of items is not that of the training events.
    """
    summaries = read_summaries(plan.staging / "summaries")
    base = Dataset.open(plan.base).manifest if plan.base else None
    rejects = read_summaries(plan.staging / "lane_rejects")
    rejected = _sum([report.rejected, *rejects, base.rejected if base else {}])
    once = _sum([report.cleaned, base.cleaned_rows if base else {}])
    cleaned = _sum([once, *(summary["cleaned"] for summary in summaries)])
    rows = report.rows + (base.rows if base else 0)
    kept = sum(summary["events"] for summary in summaries)
    lost = rows - kept - sum(rejected.values()) - sum(cleaned.values())
    assert lost == 0, f"{rows} rows in, {kept} kept, {rejected} rejected, {cleaned} cleaned: {lost} are missing"
    share = sum(rejected.values()) / rows
    if share > plan.config.max_rejected:
        raise UserError(
            f"{share:.1%} of {rows:,} rows are rejected ({_counted(rejected)}), and max_rejected is "
            f"{plan.config.max_rejected:.0%}; mend the log, set `rules`, or raise max_rejected"
        )
    rows_digest = _write_rows(plan, len(summaries))
    catalog = Catalog.load(plan.version / "catalog.arrow")
    popularity = catalog.table["popularity"].to_numpy()
    audit_catalog(popularity, sum(summary["train_tokens"] for summary in summaries), plan.version)
    _audit_features(plan, catalog)
    split = survey.split.model_dump(mode="json")
    whole = {"bounds": survey.bounds, "split": split, "log_end_ms": survey.log_end_ms, "has_time": survey.has_time}
    lanes = {**whole, "summaries": summaries}
    write_bytes(json.dumps(lanes).encode(), plan.version / LANES)
    _write_files(plan, inventory)
    return _manifest(plan, survey, summaries, rejected, (cleaned, once), rows, rows_digest)


def _audit_features(plan: Plan, catalog: Catalog) -> None:
    tables = {"catalog.arrow": (catalog.table, np.ones(catalog.table.num_rows, bool))}  # it holds training items alone
    if (plan.version / USERS).exists():
        rows = read_arrow(plan.version / "rows.arrow")
        tables[USERS] = (read_arrow(plan.version / USERS), rows["train_events"].to_numpy() > 0)
    for name, (table, training) in tables.items():
        before = plan.base / name if plan.base else None
        earlier = vocabularies(read_arrow(before)) if before is not None and before.exists() else {}
        audit_features(table, training, {one: len(values) for one, values in earlier.items()}, plan.version / name)


def _manifest(
    plan: Plan,
    survey: Survey,
    summaries: list[dict[str, Any]],
    rejected: dict[str, int],
    cleaned: tuple[dict[str, int], dict[str, int]],
    rows: int,
    rows_digest: str,
) -> Manifest:
    fields, history = survey.fields, plan.config.history or survey.event_names
    sizes = {name: Vocabulary.load(category_path(plan.version, name)) for name in fields.categories}
    learned = ["vocabulary.arrow", "catalog.arrow", *(str(category_path(Path(), name)) for name in fields.categories)]
    if (plan.version / USERS).exists():
        learned.append(USERS)
    totals = {label: np.sum([s["labels"][label] for s in summaries], axis=0) for label in fields.labels}
    times = [time for summary in summaries for time in summary["times"] if time is not None]
    named = [survey.event_names, history, fields.labels, fields.numbers, fields.categories, rows_digest]
    names = {name: np.sum([s["names"][name] for s in summaries], axis=0).tolist() for name in survey.event_names}
    return Manifest(
        project=plan.config.project,
        version=plan.version.name,
        fingerprint=manifest_digest([plan.version / name for name in learned], summaries, named),
        num_users=sum(summary["users"] for summary in summaries),
        num_items=read_arrow(plan.version / "vocabulary.arrow").num_rows,
        num_events=sum(summary["events"] for summary in summaries),
        events_by_split={mark: sum(s["marks"][mark] for s in summaries) for mark in ("train", "valid", "test")},
        events_by_name=names,
        event_names=survey.event_names,
        history=history,
        labels=fields.labels,
        label_means={label: float(total / max(count, 1)) for label, (total, count) in totals.items()},
        numbers=fields.numbers,
        categories={name: len(vocabulary) for name, vocabulary in sizes.items()},
        user_columns=column_schema(read_arrow(plan.version / USERS) if USERS in learned else None),
        item_columns=column_schema(read_arrow(plan.version / "catalog.arrow")),
        shards=tuple(summary["shard"] for summary in summaries),
        time_range=(min(times), max(times)) if times else None,
        rows=rows,
        kept=sum(summary["events"] for summary in summaries),
        rejected=rejected,
        cleaned=cleaned[0],
        cleaned_rows=cleaned[1],
        time_units=plan.units,
        tables={path.stem: json.loads(path.read_text()) for path in sorted((plan.staging / "tables").glob("[!.]*"))},
        parent=plan.base.name if plan.base else None,
        forgotten=Dataset.open(plan.base).manifest.forgotten if plan.base else 0,
        key_check=key_check(plan.secret) if plan.secret else None,
        config=plan.config.model_dump(mode="json") | {"split": survey.split.model_dump(mode="json")},
    )


def _write_rows(plan: Plan, num_lanes: int) -> str:
    parts = ArrowParts(plan.version / "rows.arrow", ROWS)
    for lane in range(num_lanes):
        parts.add(read_arrow(plan.staging / "rows" / f"{lane:05d}.arrow"))
    parts.close()
    return digest_of(plan.version / "rows.arrow")


def _write_files(plan: Plan, inventory: Inventory) -> None:
    entries = {entry["path"]: entry for entry in read_files(plan.base)} if plan.base else {}
    for file in inventory.files.values():
        entries[file.path] = {"path": file.path, "size": file.size, "modified": file.modified}
    write_bytes(json.dumps(list(entries.values()), indent=1).encode(), plan.version / FILES)


def lane_remarks(plan: Plan) -> list[str]:
    """Tell how many events the lanes rejected and left out, by rule and reason."""
    rejects = _sum(read_summaries(plan.staging / "lane_rejects"))
    cleaned = _sum([one["cleaned"] for one in read_summaries(plan.staging / "lanes")])
    return [
        f"{count:,} {name} {what}"
        for what, counts in (("rejected", rejects), ("cleaned", cleaned))
        for name, count in counts.items()
    ]


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return {name: total[name] for name in sorted(total)}


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
