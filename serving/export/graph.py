"""What programs are made of: a backbone as a function of tensors alone, and the proof that a program does the same."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import Dim

from raysys.component import kind_of
from raysys.data.batches import History
from raysys.errors import UserError
from raysys.model.backbones.backbone import Backbone
from raysys.model.program import Program
from serving.export.kind import Draft

_TOLERANCE = 1e-3
_MOST_USERS = 1 << 20


class Encoder(nn.Module):
    """From the inputs of a program (`INPUTS`) to states."""

    def __init__(self, draft: Draft, kind: str) -> None:
        """Take a copy of the backbone.

        Raises:
            UserError: it has no states to compute from tokens alone.
        """
        super().__init__()
        backbone = draft.network.recommender.backbone
        self.name = kind_of(draft.run.config.model.backbone)
        if backbone.per_user:
            raise refusal(kind, self.name, "it looks users up in a table, so there is no network to translate")
        if type(backbone).tokens is not Backbone.tokens:
            raise refusal(kind, self.name, "it makes its tokens in its own way")
        self.width = draft.run.config.model.width
        self.most = draft.run.config.model.max_length + backbone.bidirectional  # one behind the end, which asks
        self.backbone = copy.deepcopy(backbone)
        self.backbone.token_fields = None  # they stay outside
        self.backbone.tokens = lambda history, vectors: vectors  # type: ignore[method-assign, assignment, return-value]

    def forward(self, tokens: Tensor, items: Tensor, events: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Return states [B, L, D]."""
        history = History(items, events, times, mask, torch.full_like(items[:, 0], -1))
        states: Tensor = self.backbone(history, tokens)
        return states

    def example(self, num_users: int, length: int) -> tuple[Tensor, ...]:
        """Return inputs for some users, whose histories end at different places, the first at the very end."""
        generator = torch.Generator().manual_seed(num_users * 1000 + length)
        ends_B1 = torch.randint(1, length + 1, (num_users, 1), generator=generator)
        ends_B1[0] = length
        mask_BL = torch.arange(length) < ends_B1
        whole = torch.ones(num_users, length, dtype=torch.int64)
        times_BL = torch.randint(10**9, (num_users, length), generator=generator).cumsum(1)
        tokens_BLD = torch.randn(num_users, length, self.width, generator=generator)
        return tokens_BLD, whole, whole - 1, times_BL, mask_BL

    @property
    def shapes(self) -> tuple[dict[int, Dim], ...]:
        """What varies: users and length of every input."""
        users, length = Dim("users", min=1, max=_MOST_USERS), Dim("length", min=1, max=self.most)
        return ({0: users, 1: length},) * 5

    def check(self, program: Program, kind: str, tolerance: float = _TOLERANCE) -> None:
        """Compare a program with the backbone that it was made of, for one user and many, short histories and long.

        Raises:
            UserError: the states differ.
        """
        for num_users, length in ((1, 1), (1, self.most), (5, 1), (3, min(7, self.most)), (32, self.most)):
            inputs = self.example(num_users, length)
            with torch.inference_mode():
                apart_BLD = (self(*inputs) - program(*inputs)).abs() * inputs[-1].unsqueeze(-1)
            if not float(apart_BLD.max()) <= tolerance:
                raise refusal(kind, self.name, f"the program's states differ by {float(apart_BLD.max()):.2g}")


def refusal(kind: str, backbone: str, reason: str) -> UserError:
    """Return the error that says why a backbone has no program of some kind."""
    return UserError(f"{kind}: the backbone {backbone} cannot be exported so: {reason}; take bf16, int8 or pruned")


def without_backbone(draft: Draft) -> Draft:
    """Leave out the weights that a program holds."""
    prefix, fields = "recommender.backbone.", "recommender.backbone.token_fields."
    kept = {
        name: tensor for name, tensor in draft.state.items() if not name.startswith(prefix) or name.startswith(fields)
    }
    return replace(draft, state=kept)
