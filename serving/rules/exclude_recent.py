"""Exclude recent: what a user did lately is not recommended, whether or not what was seen is."""

from typing import Literal

import numpy as np
from pydantic import Field

from raysys.component import FrozenConfig
from raysys.data.schema import FIRST_ITEM
from raysys.data.times import Duration
from raysys.errors import UserError, nearest
from serving.rules.rule import NO_ITEMS, Rule, RuleFacts
from serving.users.state import UserState


class ExcludeRecent(Rule):
    """Leaves out the items of a user's events of one kind, for a while."""

    class Config(FrozenConfig):
        """Which event, and how long."""

        kind: Literal["exclude_recent"] = "exclude_recent"
        event: str
        """An event of the dataset, such as purchase."""
        within: Duration = Field("90d", validate_default=True)
        """How long after it the item stays out."""

    def __init__(self, config: Config, facts: RuleFacts, where: str) -> None:
        super().__init__(config, facts, where)
        there = facts.manifest.event_names
        if config.event not in there:
            raise UserError(
                f"{where}.event: no event {config.event!r} in the dataset{nearest(config.event, there)} "
                f"(it has: {', '.join(there)})"
            )
        if facts.manifest.time_range is None:
            raise UserError(f"{where}: the events of the dataset have no times, so none is recent; leave the rule out")

    def without(self, state: UserState, time: int) -> np.ndarray:
        """Return the items of the recent events."""
        since = time - self.config.within
        names = [one.item_id for one in state.events if one.event == self.config.event and one.time >= since]
        if not names:
            return NO_ITEMS
        found = self.facts.vocabulary.lookup(names).astype(np.int64)
        return found[found >= FIRST_ITEM]
