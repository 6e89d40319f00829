"""Runs the passes of an ingestion with Ray Data, alone on its dataset, and leaves nothing behind when it fails."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysys import cluster
from raysys.data import append as later
from raysys.data.config import IngestConfig
from raysys.data.dataset import Dataset, alone, new_version
from raysys.data.inventory import take_inventory, without_dropped
from raysys.data.line import Each, run_passes
from raysys.data.passes.plan import Plan
from raysys.data.privacy import key_check
from raysys.errors import UserError
from raysys.progress import StepBar, console


def ingest(
    config: IngestConfig, output: str | Path | None = None, append: bool = False, each: Each | None = None
) -> Dataset:
    """Turn the configured logs into a new version of a dataset directory.

    Args:
        config: what to read, and how.
        output: the dataset directory; ROOT/datasets/PROJECT by default.
        append: read only files that the newest version has not read, and extend it.
        each: where tasks run; on Ray, which is started when none is there, by default.

    Raises:
        UserError: a source is missing or unreadable, or too many of its rows are rejected; nothing is left behind.
    """
    config = without_dropped(config)
    path = Path(output) if output else Path(config.root) / "datasets" / config.project
    secret = config.pseudonymise.secret() if config.pseudonymise else None
    with alone(path.absolute()):
        base = _base(path, config, key_check(secret) if secret else None) if append else None
        inventory = take_inventory(config, base)
        if base is not None and not inventory.pieces:
            console.print(f"  nothing new: {base.manifest.version} has read every file of the sources", soft_wrap=True)
            return base
        version = new_version(path.absolute())
        plan = Plan(
            config=config,
            version=version,
            pieces=inventory.pieces,
            user_pieces=inventory.user_pieces,
            units=inventory.units,
            fields=inventory.fields,
            now_ms=int(time.time() * 1000),
            base=base.path if base else None,
            secret=secret,
        )
        try:
            if each is not None:
                return run_passes(plan, inventory, each)
            with cluster.connected():
                return run_passes(plan, inventory, on_ray)
        except BaseException:
            shutil.rmtree(version, ignore_errors=True)
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            raise


def _base(path: Path, config: IngestConfig, check: str | None) -> Dataset:
    base = Dataset.open(path)
    if config.clean.k_core is not None:
        raise UserError("--append: clean.k_core depends on all days together; ingest everything anew without --append")
    later.check_extends(config, base.manifest, check)
    return base


def on_ray(key: str, values: Iterable[Any], task: Callable[[pa.Table], pa.Table], plan: Plan, name: str) -> None:
    """Run a task once for each value, wherever Ray has a place for it.

    Raises:
        UserError: a task met a mistake of the user's.
    """
    values = list(values)
    if not values:
        return
    import ray.data

    cluster.quiet_ray()  # importing ray.data sets its own log level
    # Memory reserved for each operator lets only one and a half tasks run on two cores; ours hold no blocks.
    ray.data.DataContext.get_current().op_resource_reservation_enabled = False
    todo = ray.data.from_items([{key: value} for value in values], override_num_blocks=len(values))
    done = todo.map_batches(task, batch_size=1, batch_format="pyarrow", num_cpus=cluster.cpus_per_task())
    bar = StepBar(len(values))
    for count, _ in enumerate(done.iter_batches(batch_size=None, batch_format="pyarrow"), start=1):
        bar.update(count, name)
    bar.close()
    if (mistake := plan.told()) is not None:
        raise UserError(mistake)
