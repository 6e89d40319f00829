"""A smaller catalogue: items that training hardly met are neither recommended nor read in histories."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raysys.component import FrozenConfig, kind_of
from raysys.data.schema import FIRST_ITEM
from raysys.data.view import write_view
from raysys.errors import UserError
from raysys.model.backbones.backbone import Backbone
from raysys.tasks.multitask import MultiTask
from serving.export.kind import Draft, Kind


class Pruned(Kind):
    """Cuts vocabulary, catalog and every table with a row per item; the dataset is seen through a view."""

    stage = "items"

    class Config(FrozenConfig):
        """Which items stay."""

        min_events: int | None = Field(None, ge=1)
        """Those with at least so many history events in training."""
        max_items: int | None = Field(None, ge=1)
        """Of these, so many with the most events."""

    def __init__(self, config: Config) -> None:
        if config.min_events is None and config.max_items is None:
            raise UserError("pruned: say which items stay, by --min-events N, --max-items N or both")
        super().__init__(config)

    def apply(self, draft: Draft) -> Draft:
        """Cut the items."""
        config, backbone = draft.run.config, draft.network.recommender.backbone
        if type(backbone).vectors is not Backbone.vectors:
            raise UserError(
                f"pruned: the backbone {kind_of(config.model.backbone)} makes an item's vector from those of others: "
                "without some of them the rest would change; train on a dataset with fewer items (`k_core`)"
            )
        kept = self.kept(draft.run.catalog.popularity)
        view = write_view(draft.dataset.base, kept, draft.folder)
        if draft.dataset.trains_on_validation:
            view = view.with_validation()
        network = MultiTask(config.model, config.tasks, view.manifest)
        rows = np.concatenate([np.arange(FIRST_ITEM), kept])
        state = _cut(draft.network.state_dict(), network.state_dict(), torch.from_numpy(rows))
        network.load_state_dict(state)
        return replace(draft, dataset=view, network=network.eval(), state=state)

    def kept(self, popularity_V: np.ndarray) -> np.ndarray:
        """Return the indices of the items that stay, ascending [K].

        Raises:
            UserError: none would, or all.
        """
        counts = popularity_V[FIRST_ITEM:]
        best = np.argsort(-counts, kind="stable")
        best = best[counts[best] >= (self.config.min_events or 0)][: self.config.max_items]
        if len(best) in (0, len(counts)):
            given = ", ".join(f"{name} {value}" for name, value in self.config.model_dump(exclude_none=True).items())
            raise UserError(
                f"pruned: {given} keeps {'all' if len(best) else 'none'} of {len(counts)} items; the most frequent one "
                f"has {int(counts.max())} events, the rarest {int(counts.min())}"
            )
        return np.sort(best) + FIRST_ITEM


def _cut(whole: Mapping[str, Tensor], smaller: Mapping[str, Tensor], rows_K: Tensor) -> dict[str, Tensor]:
    """Return the weights with the chosen rows of the tables that have a row per item: whose size differs."""
    found = {}
    for name, tensor in whole.items():
        own = smaller[name].shape
        if tensor.shape == own or not own[0]:  # without rows: takes its size from what is loaded
            found[name] = tensor
            continue
        cut = tensor[rows_K]
        assert cut.shape == own, f"{name} depends on the number of items, but has no row for each"
        found[name] = cut
    return found
