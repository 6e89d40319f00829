"""Which weights may be stored in fewer bytes."""

import torch

from raysys.tasks.multitask import MultiTask


def matrices(network: MultiTask) -> set[str]:
    """Return the names of learned tables and matrices, and of what the items' vectors are made from.

    Biases and norms are a few bytes. Other buffers are facts that are compared, such as the edges between buckets of
    numbers or the features of items: a rounded one might fall on the other side.
    """
    learned = {name for name, _ in network.named_parameters()}
    return {
        name
        for name, tensor in network.state_dict().items()
        if tensor.dtype == torch.float32
        and tensor.ndim > 1
        and (name in learned or name.startswith("recommender.items."))
    }
