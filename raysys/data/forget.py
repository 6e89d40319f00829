"""Removes a user from every kept version of a dataset: events, log, features, counts and rejected rows."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.append import LANES, read_lanes
from raysys.data.audit import taught
from raysys.data.catalog import Catalog
from raysys.data.dataset import MANIFEST, USERS, Dataset, Manifest, alone, category_path, replace_version, versions
from raysys.data.files import ArrowParts, digest_of, link_or_copy, read_arrow, write_arrow, write_bytes
from raysys.data.hashing import hash_ids
from raysys.data.passes.encode import manifest_digest
from raysys.data.passes.plan import buckets_of
from raysys.data.privacy import Pseudonymise, key_check, pseudonym
from raysys.data.schema import LABEL_PREFIX, Split
from raysys.errors import UserError


@dataclass(frozen=True)
class Forgotten:
    """What was removed from one version."""

    version: str
    events: int
    """Events in the shards."""
    logged: int
    """Events in the log that later days are added to; some of them may have been cleaned away from the shards."""
    rejected: int
    """Rows kept aside that named the user."""


def forget(dataset: str | Path, user_id: str) -> list[Forgotten]:
    """Remove a user from every version of a dataset directory and return what was removed, version by version.

    Item indices stay as they are, so runs keep working; popularity and counts are those without the user. Each version
    is replaced as a whole: a crash leaves the old one or the new one. In a pseudonymised dataset the real id is asked
    for while the key's variable is set, otherwise the pseudonym.

    Raises:
        UserError: there is no dataset, or no version of it knows the user.
    """
    path = Path(dataset)
    with alone(path):
        found = versions(path)
        if not found:
            raise UserError(f"{path}: not a dataset directory; give the directory that holds the versions")
        removed = [_forget(version, user_id) for version in found]
    if not any(one.events or one.logged or one.rejected for one in removed):
        raise UserError(f"{user_id}: no version of {path} knows this user (of {', '.join(v.name for v in found)})")
    return removed


def name_in(manifest: Manifest, user_id: str) -> str:
    """Return the id under which a dataset knows a user.

    Raises:
        UserError: the key in the environment is not the one that made the pseudonyms.
    """
    settings = manifest.config.get("pseudonymise")
    if manifest.key_check is None or settings is None:
        return user_id
    try:
        secret = Pseudonymise.model_validate(settings).secret()
    except UserError:
        return user_id  # no key here: the caller gives the pseudonym
    if key_check(secret) != manifest.key_check:
        raise UserError(f"pseudonymise.key: {settings['key']} holds another key than the dataset was made with")
    return pseudonym(user_id, secret)


def _forget(version: Path, user_id: str) -> Forgotten:
    opened = Dataset.open(version)
    name = name_in(opened.manifest, user_id)
    bounds = read_lanes(version)["bounds"]
    bucket = int(buckets_of(hash_ids(pa.array([name])))[0])
    lane = int(np.searchsorted(bounds, bucket, side="right")) - 1
    file = f"{lane:05d}.arrow"
    shard, log = read_arrow(version / "shards" / file), read_arrow(version / "log" / file)
    own, stays = shard.filter(pc.equal(shard["user_id"], name)), log.filter(_others(log, name))
    rejected = {path: (stays, gone) for path, stays, gone in _rejected_without(version, name)}
    rules = sum((gone for _, gone in rejected.values()), Counter[str]())
    count = Forgotten(
        version=version.name,
        events=int(pc.sum(pc.list_value_length(own["items"])).as_py() or 0),
        logged=log.num_rows - stays.num_rows,
        rejected=rules.total(),
    )
    if not (count.events or count.logged or count.rejected):
        return count
    fresh = version.with_name(f".{version.name}.forgetting")
    shutil.rmtree(fresh, ignore_errors=True)
    for path in sorted(version.rglob("*")):
        if path.is_file():
            link_or_copy(path, fresh / path.relative_to(version))
    # As text and back: a dictionary would still hold the user's id.
    names = pc.dictionary_encode(pc.cast(stays["user_id"], pa.string()).combine_chunks())
    stays = stays.set_column(stays.column_names.index("user_id"), "user_id", names)
    write_arrow(stays, fresh / "log" / file, compression="lz4")
    for path, (rows, _) in rejected.items():
        _write_parquet(rows, fresh / path.relative_to(version))
    if own.num_rows:
        _rewrite(opened, fresh, lane, name, own)
    _conclude(opened, fresh, lane, own, count, rules)
    replace_version(version, fresh)
    return count


def _rewrite(opened: Dataset, fresh: Path, lane: int, name: str, own: pa.Table) -> None:
    """Write the lane's shard, rows, features and learned counts without the user."""
    file, manifest = f"{lane:05d}.arrow", opened.manifest
    shard = read_arrow(opened.path / "shards" / file)
    left = shard.filter(_others(shard, name))
    write_arrow(left, fresh / "shards" / file)
    place = int(np.flatnonzero(pc.equal(shard["user_id"], name).to_numpy())[0])
    first = sum(summary["users"] for summary in read_lanes(opened.path)["summaries"][:lane])
    for table in ("rows.arrow", USERS):
        if (opened.path / table).exists():
            _without_row(opened.path / table, fresh / table, first + place)
    is_history = np.array([event in manifest.history for event in manifest.event_names], bool)
    ids = opened.vocabulary.item_ids
    write_arrow(taught(left, ids, is_history), fresh / "items" / file)
    lost = taught(own, ids, is_history)
    table = opened.catalog.table
    counts = table["popularity"].to_numpy().copy()
    counts[pc.index_in(lost["item_id"], ids).to_numpy()] -= lost["count"].to_numpy()
    at = table.column_names.index("popularity")
    Catalog(table.set_column(at, "popularity", pa.array(counts))).save(fresh / "catalog.arrow")


def _conclude(
    opened: Dataset, fresh: Path, lane: int, own: pa.Table, count: Forgotten, rules: Mapping[str, int]
) -> None:
    """Write the lanes' summaries and the manifest."""
    manifest, lanes = opened.manifest, read_lanes(opened.path)
    summaries = lanes["summaries"]
    _lower(summaries[lane], manifest, own, count)
    shard = fresh / "shards" / f"{lane:05d}.arrow"
    left = read_arrow(shard)["times"].combine_chunks().flatten().to_numpy()
    left = left[left != 0]
    summaries[lane]["times"] = (int(left.min()), int(left.max())) if len(left) else (None, None)
    summaries[lane]["digest"] = digest_of(shard)
    write_bytes(json.dumps(lanes).encode(), fresh / LANES)
    learned = ["vocabulary.arrow", "catalog.arrow", *(str(category_path(Path(), name)) for name in manifest.categories)]
    learned += [USERS] if (fresh / USERS).exists() else []
    names = [manifest.event_names, manifest.history, manifest.labels, manifest.numbers, tuple(manifest.categories)]
    digest = manifest_digest([fresh / name for name in learned], summaries, [*names, digest_of(fresh / "rows.arrow")])
    totals = {label: np.sum([s["labels"][label] for s in summaries], axis=0) for label in manifest.labels}
    cleaned = Counter(manifest.cleaned_rows)
    for each in summaries:
        cleaned.update(each["cleaned"])
    times = [time for each in summaries for time in each["times"] if time is not None]
    rejected = Counter(manifest.rejected) - Counter(rules)
    changes: dict[str, Any] = {
        "fingerprint": digest,
        "num_users": manifest.num_users - own.num_rows,
        "num_events": manifest.num_events - count.events,
        "kept": manifest.kept - count.events,
        "rejected": {rule: rejected[rule] for rule in sorted(rejected)},
        "cleaned": {reason: cleaned[reason] for reason in sorted(cleaned)},
        "rows": manifest.rows - count.logged - count.rejected,
        "time_range": (min(times), max(times)) if times else None,
        "events_by_split": {mark: sum(s["marks"][mark] for s in summaries) for mark in manifest.events_by_split},
        "events_by_name": {
            name: np.sum([s["names"][name] for s in summaries], axis=0).tolist() for name in manifest.event_names
        },
        "label_means": {label: float(total / max(known, 1)) for label, (total, known) in totals.items()},
        "forgotten": manifest.forgotten + 1,
    }
    write_bytes(manifest.model_copy(update=changes).model_dump_json(indent=1).encode(), fresh / MANIFEST)


def _lower(summary: dict[str, Any], manifest: Manifest, own: pa.Table, count: Forgotten) -> None:
    """Take a user's row of the shard (or none) off the summary of its lane."""
    marks = own["marks"].combine_chunks().flatten().to_numpy()
    events = own["events"].combine_chunks().flatten().to_numpy()
    named = (Split.TRAIN, Split.VALID, Split.TEST)
    summary["users"] -= own.num_rows
    summary["events"] -= count.events
    for mark in named:
        summary["marks"][mark.name.lower()] -= int(np.sum(marks == mark))
    for code, event in enumerate(manifest.event_names):
        for at, mark in enumerate(named):
            summary["names"][event][at] -= int(np.sum((events == code) & (marks == mark)))
    is_history = np.array([event in manifest.history for event in manifest.event_names], bool)
    summary["train_tokens"] -= int(np.sum((marks == Split.TRAIN) & is_history[events]))
    for label, (total, known) in summary["labels"].items():
        values = own[LABEL_PREFIX + label].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values = values[(marks == Split.TRAIN) & np.isfinite(values)]
        summary["labels"][label] = (total - float(values.sum()), known - len(values))
    summary["cleaned"] = _take_off(summary["cleaned"], count.logged - count.events)


def _take_off(cleaned: dict[str, int], number: int) -> dict[str, int]:
    """Lower the counts of cleaned rows by those of one user; which rule had cleaned each of them is not kept."""
    left = dict(cleaned)
    for reason in sorted(left, key=lambda name: -left[name]):
        taken = min(left[reason], number)
        left[reason] -= taken
        number -= taken
    return {reason: count for reason, count in left.items() if count}


def _others(table: pa.Table, name: str) -> pa.ChunkedArray:
    return pc.not_equal(pc.cast(table["user_id"], pa.string()), name)


def _rejected_without(version: Path, name: str) -> Iterator[tuple[Path, pa.Table, Counter[str]]]:
    """Yield the files of rejected rows that name the user: the rows that stay, and the rules that the others broke."""
    for path in sorted((version / "rejected").glob("*.parquet")):
        rows = pq.read_table(path)
        own = pa.array([_names(record, name) for record in rows["record"].to_pylist()], pa.bool_())
        if own.true_count:
            yield path, rows.filter(pc.invert(own)), Counter(rows["rule"].filter(own).to_pylist())


def _names(record: str | None, name: str) -> bool:
    """Tell whether a rejected row is the user's: its user_id is, or it is a raw line that has the id as a field."""
    record = record or ""
    try:
        values = json.loads(record)
    except json.JSONDecodeError:
        values = None
    if isinstance(values, dict) and "user_id" in values:
        given = values["user_id"] if isinstance(values["user_id"], list) else [values["user_id"]]
        return name in [str(int(one) if isinstance(one, float) and one.is_integer() else one).strip() for one in given]
    written = (name, json.dumps(name)[1:-1])  # as a line of JSON may escape it
    return any(re.search(rf"(?<![\w.@-]){re.escape(form)}(?![\w.@-])", record) for form in written)


def _without_row(source: Path, target: Path, row: int) -> None:
    table = read_arrow(source)
    left = table.filter(pa.array(np.arange(table.num_rows) != row))  # a slice would still hold the row's bytes
    parts = ArrowParts(target, table.schema)
    for batch in left.to_batches():
        parts.add(pa.Table.from_batches([batch]))
    parts.close()


def _write_parquet(table: pa.Table, path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(sink.getvalue(), path)
