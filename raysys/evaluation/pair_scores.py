"""What the tasks of a run predict for the items of a list: a rating, a probability. Leaves the order as it is."""

import torch
from torch import Tensor

from raysys.data.batches import Columns, Queries, Targets
from raysys.data.schema import PAD
from raysys.evaluation.calibration.of_tasks import Calibrators, pair_predictions
from raysys.evaluation.ranking import Candidates, ModelScorer, Scorer, recommend
from raysys.model.recommender import Encoded
from raysys.tasks.multitask import MultiTask


def scored_lists(
    model: ModelScorer,
    queries: Queries,
    k: int,
    exclude_seen: bool,
    calibrators: Calibrators,
    among: Scorer | None = None,
) -> tuple[Candidates, dict[str, Tensor]]:
    """Return the k best items per user and, by task, what is predicted of each [B, K]; a history is encoded once.

    `among` scores instead of the model, asked by what the model asks: the same items, or some of them.
    """
    network = model.network
    encoded = network.recommender(queries.history) if network.pair_scorers() else None
    found = recommend(among or model, queries, k, exclude_seen, asked=model.ask(queries, encoded))
    if encoded is None:
        return found, {}
    return found, task_scores(network, encoded, queries.anchor_B, found.items_BK, calibrators)


def task_scores(
    network: MultiTask,
    encoded: Encoded,
    anchor_B: Tensor,
    items_BK: Tensor,
    calibrators: Calibrators,
    context: Columns | None = None,
) -> dict[str, Tensor]:
    """Return, by task, the predicted value [B, K] of every candidate from the state that asks for it.

    `context` [B, 1] is what is known of the moment; candidates that are PAD are passed over. Empty where no task scores
    pairs.
    """
    if not network.pair_scorers():
        return {}
    nothing = torch.zeros_like(items_BK)  # an event that has not happened has neither kind nor time
    targets = Targets(
        items_BC=items_BK,
        anchor_BC=anchor_B.unsqueeze(1).expand_as(items_BK),
        events_BC=nothing,
        times_BC=nothing,
        mask_BC=items_BK != PAD,
        labels={},
        context=_everywhere(context or Columns(), items_BK.shape[1]),
    )
    return pair_predictions(network, encoded, targets, calibrators)


def _everywhere(context: Columns, width: int) -> Columns:
    numbers = {name: values.expand(-1, width) for name, values in context.numbers.items()}
    return Columns(numbers, {name: values.expand(-1, width) for name, values in context.categories.items()})
