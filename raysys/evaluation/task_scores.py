"""What the tasks of a run predict for the items of a list: a rating, a probability. Leaves the order as it is."""

import torch
from torch import Tensor

from raysys.data.batches import Queries, Targets
from raysys.data.schema import PAD
from raysys.evaluation.calibration.of_tasks import Calibrators, pair_predictions
from raysys.evaluation.ranking import Candidates
from raysys.tasks.multitask import MultiTask


def task_scores(
    network: MultiTask, queries: Queries, candidates: Candidates, calibrators: Calibrators
) -> dict[str, Tensor]:
    """Return, by task, the predicted value [B, K] of every candidate from the state that asks for it."""
    if not network.pair_scorers():
        return {}
    items_BK = candidates.items_BK
    nothing = torch.zeros_like(items_BK)  # an event that has not happened has neither kind nor time
    targets = Targets(
        items_BC=items_BK,
        anchor_BC=queries.anchor_B.unsqueeze(1).expand_as(items_BK),
        events_BC=nothing,
        times_BC=nothing,
        mask_BC=items_BK != PAD,
        labels={},
    )
    encoded = network.recommender(queries.history)
    return pair_predictions(network, encoded, targets, calibrators)
