"""Runs for serve.py: generated logs of a given size, and models that are barely trained: speed does not mind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "ml-1m": {"num_users": 6_000, "num_items": 3_706, "events_per_user": 60},
    "1m": {"num_users": 40_000, "num_items": 1_000_000, "events_per_user": 50},
    "3m": {"num_users": 120_000, "num_items": 3_000_000, "events_per_user": 50},
}
"""Users, items and events of a log like MovieLens-1M's, and of large catalogues."""


def served_run(size: str, root: Path) -> Path:
    """Return the directory of a run of a size, made on first use."""
    import raysys
    from raysys.configfile import build
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest
    from raysys.data.line import in_process

    run = root / "runs" / size
    if (run / "run.json").is_file():
        return run
    node = {"project": size, "root": str(root), "format": "synthetic", "num_tastes": 100, **SIZES[size]}
    if not (root / "datasets" / size).is_dir():
        ingest(build(IngestConfig, node, size), root / "datasets" / size, each=in_process)
    raysys.train(_config(size, root), output=run)
    return run


def _config(size: str, root: Path) -> dict[str, Any]:
    loss = {"kind": "sampled_softmax", "negatives": 64}
    return {
        "project": size,
        "root": str(root),
        "dataset": str(root / "datasets" / size),
        "model": {"width": 64, "max_length": 50, "backbone": {"num_blocks": 2}},
        "tasks": {"next_item": {"loss": loss}, "rating": {}},
        "training": {"epochs": 1, "batch_size": 128, "threads": 1, "user_share": 0.02, "early_stopping": None},
        "evaluation": {"resamples": 10, "max_users": 50},
    }
