"""Where the model of a scorer is."""

import torch

from raysys.errors import UserError


def find_device(wants_gpu: bool) -> torch.device:
    """Return the GPU that Ray has reserved for this process, or the CPU.

    Raises:
        UserError: a GPU is wanted, and torch sees none.
    """
    if not wants_gpu:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "scorer.num_gpus: torch sees no GPU here; install a torch that is built for it (and its driver), or give "
            "num_gpus: 0"
        )
    return torch.device("cuda")
