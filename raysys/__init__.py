"""raysys: from interaction logs to recommendations served from an endpoint, on Ray.

    run = raysys.load("movielens@champion")
    run.recommend(history=["50", "172"], k=10)

Everything here loads when it is first used: `import raysys` imports neither ray nor torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysys.data.dataset import Dataset
    from raysys.evaluation.protocol import EvalReport
    from raysys.runs import Run

__all__ = ["evaluate", "ingest", "load", "train"]

Config = str | Path | Mapping[str, Any]
"""A YAML file, or the same as a mapping."""


def load(run: str | Path, root: str | None = None) -> "Run":
    """Open a run: a directory, a run id or `project@alias` (looked up under `root`, $RAYSYS_ROOT or ./store)."""
    from raysys.configfile import store_root
    from raysys.runs import find_run

    return find_run(run, root or store_root())


def ingest(
    config: Config, output: str | Path | None = None, settings: Sequence[str] = (), append: bool = False
) -> "Dataset":
    """Turn logs into a dataset, or `append` new files to it; `settings` are `a.b=c` strings as for --set."""
    from raysys.configfile import build
    from raysys.data.config import IngestConfig
    from raysys.data.ingest import ingest as run_ingest

    node, where = _node(config, settings)
    return run_ingest(build(IngestConfig, node, where), output, append)


def train(config: Config, output: str | None = None, settings: Sequence[str] = ()) -> "Run":
    """Train, evaluate and store a run; `settings` are `a.b=c` strings as for --set."""
    from raysys.config import RunConfig
    from raysys.configfile import build
    from raysys.training.fit import train as run_train

    node, where = _node(config, settings)
    return run_train(build(RunConfig, node, where), output)


def evaluate(run: "str | Path | Run", root: str | None = None) -> list["EvalReport"]:
    """Evaluate a run again on the dataset that it was trained on: validation and test."""
    from raysys.data.dataset import Dataset
    from raysys.training.fit import evaluate_splits

    opened = load(run, root) if isinstance(run, str | Path) else run
    dataset = Dataset.open(opened.record.dataset)
    return evaluate_splits(opened, dataset)


def _node(config: Config, settings: Sequence[str]) -> tuple[dict[str, Any], str]:
    from raysys.configfile import apply_settings, read_yaml

    node = dict(config) if isinstance(config, Mapping) else read_yaml(config)
    return apply_settings(node, settings), "config" if isinstance(config, Mapping) else str(config)
