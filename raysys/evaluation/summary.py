"""From what was found for each user to estimates with intervals: of everybody, and of slices."""

from collections.abc import Mapping
from dataclasses import replace

from raysys.evaluation.beyond import ItemFacts, over_all_lists, per_list, popularity_lift
from raysys.evaluation.intervals import PerUser, estimates
from raysys.evaluation.outcomes import Outcomes
from raysys.evaluation.pointwise import pointwise_estimates
from raysys.evaluation.protocol import Estimate, EvaluationConfig, depth_of
from raysys.evaluation.slices import slice_metrics

POPULARITY = "popularity"
"""Name of the baseline that is always there."""


def with_beyond(facts: ItemFacts, config: EvaluationConfig, ranked: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
    """Return outcomes of the same users with what is measured of lists beyond accuracy, popularity among them."""
    popular_UK, more = ranked[POPULARITY].items_UK, {}
    for name, outcomes in ranked.items():
        metrics = per_list(outcomes, facts, popular_UK, config.k)
        named = {f"{outcomes.prefix}.{metric}": values for metric, values in metrics.items()}
        more[name] = replace(outcomes, per_user={**outcomes.per_user, **named})
    return more


def estimate(
    facts: ItemFacts, config: EvaluationConfig, ranked: Mapping[str, Outcomes]
) -> dict[str, dict[str, Estimate]]:
    """Return every metric with its interval for outcomes of the same users: they are drawn together."""
    columns: dict[tuple[str, str], PerUser] = {}
    whole: dict[tuple[str, str], Estimate] = {}
    for owner, outcomes in ranked.items():
        columns |= {(owner, name): PerUser(values_U) for name, values_U in outcomes.per_user.items()}
        for k in config.k if outcomes.per_user and len(outcomes.users_U) else ():
            columns[owner, f"{outcomes.prefix}.popularity_lift@{k}"] = popularity_lift(outcomes, facts, k)
            for name, value in over_all_lists(outcomes.items_UK, facts.num_items, k).items():
                whole[owner, f"{outcomes.prefix}.{name}"] = value
    found: dict[str, dict[str, Estimate]] = {owner: {} for owner in ranked}
    values = estimates(columns, config) | whole
    for owner, name in sorted(values, key=lambda key: depth_of(key[1])):
        found[owner][name] = values[owner, name]
    for owner, outcomes in ranked.items():
        for further in outcomes.further.values():
            found[owner] |= estimate(facts, config, {"": further})[""]
        for task, predictions in {**outcomes.predictions, **outcomes.items}.items():
            if len(predictions.labels_N):
                metrics = pointwise_estimates(predictions, config)
                found[owner] |= {f"{task}.{name}": value for name, value in metrics.items()}
    return found


def estimate_slices(facts: ItemFacts, config: EvaluationConfig, outcomes: Outcomes) -> dict[str, dict[str, Estimate]]:
    """Return NDCG and recall with intervals of every slice that has users."""
    if not outcomes.per_user or not len(outcomes.users_U):
        return {}
    parts = slice_metrics(outcomes, facts, config.k)
    columns = {(part, name): PerUser(values) for part, metrics in parts.items() for name, values in metrics.items()}
    found: dict[str, dict[str, Estimate]] = {part: {} for part in parts}
    for (part, name), value in estimates(columns, config).items():
        found[part][f"{outcomes.prefix}.{name}"] = value
    return found
