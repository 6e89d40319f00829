"""Recommends for many users: cuts them into parts, lets Ray Data's workers write each, goes on after a crash.

No list passes through this process: workers write files, and it counts them.
"""

import contextlib
import time

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys import cluster
from raysys.bulk.choice import choose_items, choose_users
from raysys.bulk.part import Worker
from raysys.bulk.plan import Manifest, Plan, begin, digest, finish, finished, part_name, weights_digest
from raysys.data.dataset import Dataset
from raysys.data.places import Folder
from raysys.errors import UserError
from raysys.progress import StepBar
from raysys.runs import Run

USERS_PER_PART = 10_000
_Arguments = tuple[str, str, bytes | None]  # run, dataset, items: what workers need beside the plan


def recommend_users(
    run: Run,
    output: str,
    users: str = "test",
    k: int = 10,
    items: str | None = None,
    exclude_seen: bool | None = None,
    users_per_part: int = USERS_PER_PART,
    dataset_path: str | None = None,
) -> Manifest:
    """Write the k best items of each user as a directory of parquet files; it is complete when its manifest is there.

    The same call on a directory that an earlier one left unfinished makes the parts that are missing.

    Args:
        run: whose model answers.
        output: a directory, or a URI of any place that pyarrow or fsspec can write to.
        users: `test` (users with test events, asked just before those), `all` (asked from the end of their history),
            or a file with user ids (one a line, or a parquet file with a user_id column), asked as `all` are.
        k: items per user.
        items: a file of item ids: no others are recommended.
        exclude_seen: leave out what a user had; by default as the run is evaluated.
        users_per_part: users in one file: what a worker that dies begins anew, and what it holds in memory.
        dataset_path: where the run's dataset lies now; by default where it was.

    Raises:
        UserError: the dataset is not the run's, a file cannot be read or names nothing that is known, or the output
            holds something else.
    """
    run.network.retriever()  # refuses a run without lists before anything is written
    dataset = _dataset_of(run, dataset_path)
    asked = choose_users(users, dataset)
    chosen, unknown_items = choose_items(items, run.vocabulary) if items else (None, 0)
    plan = Plan(
        run_id=run.record.run_id,
        weights=weights_digest(run.path),
        dataset_fingerprint=dataset.manifest.fingerprint,
        asked_before=asked.split.name.lower(),
        users=digest(asked.rows_U),
        num_users=len(asked.rows_U),
        unknown_users=asked.unknown,
        items=None if chosen is None else digest(chosen),
        num_items=run.vocabulary.num_items if chosen is None else len(chosen),
        unknown_items=unknown_items,
        k=_positive("--k", k),
        exclude_seen=run.config.evaluation.exclude_seen if exclude_seen is None else exclude_seen,
        users_per_part=_positive("--users-per-part", users_per_part),
    )
    arguments = (str(run.path.absolute()), str(dataset.path.absolute()), None if chosen is None else chosen.tobytes())
    return _carry_out(plan, Folder.open(output), asked.rows_U, arguments)


def _carry_out(plan: Plan, folder: Folder, rows_U: np.ndarray, arguments: _Arguments) -> Manifest:
    done = begin(folder, plan)
    if (manifest := finished(folder)) is not None:
        return manifest
    if todo := [part for part in range(plan.num_parts) if part not in done]:
        _write_parts(plan, folder, todo, rows_U, arguments)
    rows = sum(pq.read_metadata(folder.read_random(part_name(part))).num_rows for part in range(plan.num_parts))
    return finish(folder, plan, rows)


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise UserError(f"{option} {value}: give at least one")
    return value


def _dataset_of(run: Run, path: str | None) -> Dataset:
    dataset = Dataset.open(path or run.record.dataset)
    if dataset.manifest.fingerprint != run.record.dataset_fingerprint:
        raise UserError(f"--dataset {dataset.path}: not the dataset that run {run.record.run_id} was trained on")
    return dataset


def _write_parts(plan: Plan, folder: Folder, todo: list[int], rows_U: np.ndarray, arguments: _Arguments) -> None:
    """Let as many workers as there are processors write the parts that are missing, and show how far they are."""
    done = plan.num_parts - len(todo)
    with contextlib.closing(StepBar(plan.num_parts, done, name="parts")) as bar, cluster.connected():
        import ray.data

        if done:
            bar.say(f"{done:,} of {plan.num_parts:,} parts are there; going on")
        cluster.quiet_ray()  # importing ray.data sets its own log level
        tasks = [{"part": part, "rows": rows_U[plan.users_of(part)].tobytes()} for part in todo]
        written = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            Worker,
            fn_constructor_args=(plan.model_dump_json(), folder.path, *arguments),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=cluster.cpus_per_task(),
            # A part takes seconds: one that waits behind another would only keep an idle worker from it.
            compute=ray.data.ActorPoolStrategy(size=cluster.places_for(len(todo)), max_tasks_in_flight_per_actor=1),
        )
        start, users = time.perf_counter(), 0
        for count, block in enumerate(written.iter_batches(batch_size=None, batch_format="pyarrow"), start=1):
            users += pc.sum(block["users"]).as_py()
            bar.update(done + count, f"{users / (time.perf_counter() - start):,.0f} users/s")
