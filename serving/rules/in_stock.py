"""In stock: only items whose feature says that they can be had."""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from raysys.component import FrozenConfig
from raysys.errors import UserError, nearest
from serving.rules.rule import Rule, RuleFacts


class InStock(Rule):
    """Leaves out the others, and items of which it is not known."""

    class Config(FrozenConfig):
        """The column of the catalog that tells, as it was when the run was trained."""

        kind: Literal["in_stock"] = "in_stock"
        column: str
        """A number or a category of items."""
        at_least: float | None = None
        """Of a number: from here on an item is in stock; null takes 1."""
        values: tuple[str, ...] = Field(())
        """Of a category: the values that mean in stock."""

        @model_validator(mode="after")
        def _one_meaning(self) -> Self:
            if self.values and self.at_least is not None:
                raise ValueError("give at_least for a number or values for a category, not both")
            return self

    def __init__(self, config: Config, facts: RuleFacts, where: str) -> None:
        super().__init__(config, facts, where)
        kind, there = ("category", facts.features.categories) if config.values else ("number", facts.features.numbers)
        if config.column not in there:
            hint = "" if config.values else "; for a category give its values"
            raise UserError(
                f"{where}.column: items have no {kind} {config.column!r}{nearest(config.column, there)} "
                f"(they have: {', '.join(there) or 'none'}){hint}"
            )

    def flags(self) -> np.ndarray:
        """Return the items in stock."""
        features, config = self.facts.features, self.config
        if config.values:
            return features.has_value(config.column, config.values)
        return features.in_range(config.column, 1.0 if config.at_least is None else config.at_least, None)
