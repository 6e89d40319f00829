"""The order of the passes: route, gather, learn, encode; the manifest comes last. Callers decide where tasks run.

Two passes over the events: one routes the rows of the sources to hash buckets of users, one gathers, cleans and marks
the users of each lane. Between them and the shards only tables of distinct items travel.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from raysys.data import append as later
from raysys.data.dataset import Dataset, commit
from raysys.data.files import read_arrow
from raysys.data.inventory import Inventory
from raysys.data.passes.encode import EncodeLanes
from raysys.data.passes.gather import GatherLanes
from raysys.data.passes.learn import FAN_IN, LearnVocabularies, MergeParts, merged_folder
from raysys.data.passes.plan import Plan, Survey
from raysys.data.passes.prepare import CountItems, ExcludeRare, PrepareLanes
from raysys.data.passes.route import RouteItems, RoutePieces, RouteUsers
from raysys.data.passes.users import EncodeUsers, UserValues, write_users
from raysys.data.schema import Fields
from raysys.data.survey import conclude, lane_remarks, read_report, refuse_bad_logs, survey_of
from raysys.errors import UserError
from raysys.progress import stage

Each = Callable[[str, Iterable[Any], Callable[[pa.Table], pa.Table], Plan, str], None]
"""Runs a task once per value: each(column of the task's batch, values, task, plan, name for people)."""


def in_process(key: str, values: Iterable[Any], task: Callable[[pa.Table], pa.Table], plan: Plan, name: str) -> None:
    """Run a task once for each value, one after the other, in this process: for tests and debuggers.

    Raises:
        UserError: a task met a mistake of the user's.
    """
    for value in values:
        task(pa.table({key: [value]}))
    if (mistake := plan.told()) is not None:
        raise UserError(mistake)


def run_passes(plan: Plan, inventory: Inventory, each: Each) -> Dataset:
    """Take the pieces of an inventory through all stations into a new version, and commit it.

    Raises:
        UserError: the logs cannot become a dataset under this config.
    """
    if plan.base is not None:  # the sources of later days may know less than the log holds
        plan = dataclasses.replace(plan, fields=Fields.union([later.logged_fields(plan.base), plan.fields]))
    with stage("read and validate") as remarks:
        each("piece", range(len(plan.pieces)), RoutePieces(plan), plan, "read")
        each("piece", range(len(plan.user_pieces)), RouteUsers(plan), plan, "users")
        if plan.config.items is not None and plan.config.items.timestamp is not None:
            each("piece", range(1), RouteItems(plan), plan, "items")
        report = read_report(plan)
        remarks.append(f"{report.rows:,} rows, {report.kept:,} kept, {sum(report.rejected.values()):,} rejected")
        remarks += inventory.remarks
        refuse_bad_logs(plan, report)
    if plan.base is not None:
        later.keep_rejected(plan)
    survey = survey_of(plan)
    lanes = later.touched_lanes(plan, survey)
    kept = [lane for lane in range(len(survey.bounds) - 1) if lane not in set(lanes)]
    with stage("gather users") as remarks:
        each("lane", lanes, GatherLanes(plan, survey), plan, "gather")
        if plan.config.clean.k_core is not None:
            remarks.append(_k_core(plan, survey, lanes, each))
        remarks.append(f"{len(lanes)} of {len(survey.bounds) - 1} lanes")
        remarks += lane_remarks(plan)
    if kept:
        later.keep_lanes(plan, survey, kept)
    with stage("learn vocabulary and catalog"):
        _learn(plan, survey, each)
        stale = later.stale_lanes(plan, kept) if kept else []
        each("lane", stale, GatherLanes(plan, survey), plan, "gather")
    with stage("encode and audit shards"):
        each("lane", sorted({*lanes, *stale}), EncodeLanes(plan, survey), plan, "encode")
        if kept:
            later.keep_shards(plan, sorted(set(kept) - set(stale)))
        if plan.config.users is not None and plan.config.users.timestamp is None:
            everyone = range(len(survey.bounds) - 1)
            each("lane", everyone, UserValues(plan, survey), plan, "users")
            each("lane", everyone, EncodeUsers(plan, survey), plan, "users")
            write_users(plan)
    manifest = conclude(plan, survey, report, inventory)
    shutil.rmtree(plan.staging)
    for partial in plan.version.rglob(".*.partial"):  # of workers that were killed
        partial.unlink()
    return commit(plan.version, manifest)


def _k_core(plan: Plan, survey: Survey, lanes: list[int], each: Each) -> str:
    """Count and leave out rare items in rounds, until every user and item that is left has enough."""
    excluded, rounds, grown = None, 0, True
    while grown:
        folder = plan.staging / "rounds" / f"{rounds:03d}"
        each("lane", lanes, CountItems(plan, survey, excluded, folder), plan, "count")
        each("round", [rounds], ExcludeRare(plan, excluded, folder), plan, "leave out")
        before, excluded, rounds = excluded, folder.with_suffix(".arrow"), rounds + 1
        grown = read_arrow(excluded).num_rows > (read_arrow(before).num_rows if before else 0)
    each("lane", lanes, PrepareLanes(plan, survey, excluded), plan, "prepare")
    return f"{read_arrow(folder.with_suffix('.arrow')).num_rows:,} rare items left out in {rounds} rounds"


def _learn(plan: Plan, survey: Survey, each: Each) -> None:
    """Merge what the lanes know of items and of each context category, until one task can hold it."""
    names, level = ["", *survey.fields.categories], 0
    count = len(survey.bounds) - 1
    while count > FAN_IN:
        for name in names:
            parts = tuple(sorted(merged_folder(plan, name, level).glob("[0-9]*.arrow")))
            each("group", range(-(-count // FAN_IN)), MergeParts(plan, name, level, parts), plan, "merge")
        count, level = -(-count // FAN_IN), level + 1
    each("name", names, LearnVocabularies(plan, level), plan, "learn")
