"""How a model is judged: which users, which items, which metrics; and the carriers of the outcome."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raysys.component import FrozenConfig, OneOf, name_as_kind
from raysys.evaluation.baselines import BASELINES
from raysys.evaluation.calibration import CALIBRATIONS
from raysys.evaluation.calibration.platt import Platt

PROTOCOL = "full ranking over the whole catalogue; items the user already had are left out; no sampled negatives"

_ERRORS = ("rmse", "mae", "log_loss", "normalised_entropy", "ece", "ece_floor", "ece_raw", "loss")
Gates = Mapping[str, Mapping[str, float]]
"""The mean share of each expert in what a task is given, by task and name of the expert: those of a task sum to 1."""
BaselinesConfig = dict[str, Annotated[FrozenConfig, OneOf(BASELINES)]]


class EvaluationConfig(FrozenConfig):
    """Evaluation. Metrics are means over users; intervals are percentile bootstraps over users."""

    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((5, 10, 20), min_length=1)
    """Depths of the ranking metrics."""
    batch_size: int = Field(256, ge=1)
    """Users ranked at a time."""
    exclude_seen: bool = True
    """Leave out what the user already had; a held-out item that was had before then counts as a miss."""
    max_users: int | None = Field(None, ge=1)
    """Most users of a split that are evaluated: always the same, chosen by a hash of their ids; all where null. They
    are ranked against all items, and the intervals say what the sample leaves open."""
    live: bool = True
    """Whether labels are predicted from all that came strictly before, as a service that takes in every event would,
    or from what was known when the split began, so that nothing of its period is an input. Lists are always made from
    the latter."""
    baselines: Annotated[BaselinesConfig, BeforeValidator(name_as_kind)] = {}
    """Baselines by name that stand beside the run in its reports; popularity always does."""
    calibration: Annotated[FrozenConfig, OneOf(CALIBRATIONS)] = Platt.Config()
    """How probabilities are made to agree with rates: fitted on the validation split, of tasks that predict them."""
    resamples: int = Field(1000, ge=10)
    """Bootstrap resamples behind each interval."""
    confidence: float = Field(0.95, gt=0, lt=1)


@dataclass(frozen=True)
class Estimate:
    """A metric with its bootstrap interval over users."""

    mean: float
    low: float
    high: float
    count: int
    """Users behind it; of labels, pairs, but users of GAUC."""


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation found, beside the baselines under the same protocol."""

    split: str
    protocol: str
    metrics: Mapping[str, Estimate]
    """By name: `task.metric@k` for lists, `task.metric` for labels."""
    baselines: Mapping[str, Mapping[str, Estimate]]
    """The metrics of each baseline, under the same names; "popularity" always, "training_mean" where labels are."""
    slices: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    """Metrics of parts: "history 5-9" of the users with so many known events, "item tail" of those held-out items."""
    num_users: int = 0
    """Users that were evaluated."""
    num_users_of_split: int = 0
    """Users that have events of the split."""
    notes: tuple[str, ...] = field(default=())
    gates: Gates = field(default_factory=dict)
    """Of the point-wise tasks; none where their sharing has no experts."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for files and --json.

        {"split", "protocol", "metrics": {metric: {"mean", "low", "high", "count"}}, "baselines": {baseline: {metric:
        {...}}}, "slices": {slice: {metric: {...}}}, "num_users", "num_users_of_split", "notes": [text],
        "gates": {task: {expert: share}}}
        """
        return asdict(self)

    @staticmethod
    def from_json(node: Mapping[str, Any]) -> "EvalReport":
        """Read what `to_json` wrote."""
        return EvalReport(
            node["split"],
            node["protocol"],
            _estimates(node["metrics"]),
            {name: _estimates(part) for name, part in node["baselines"].items()},
            {name: _estimates(part) for name, part in node["slices"].items()},
            node["num_users"],
            node["num_users_of_split"],
            tuple(node["notes"]),
            node.get("gates", {}),
        )


def lower_is_better(metric: str) -> bool:
    """Tell whether a metric is an error."""
    return metric.rpartition(".")[2] in _ERRORS or metric.startswith("loss")


def depth_of(metric: str) -> int:
    """Return the k of a metric of lists (`task.ndcg@10`), 0 for any other."""
    depth = metric.rpartition("@")[2]
    return int(depth) if depth.isdigit() else 0


def _estimates(node: Mapping[str, Any]) -> dict[str, Estimate]:
    return {metric: Estimate(**value) for metric, value in node.items()}
