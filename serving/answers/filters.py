"""Filters by item features: what a client may ask for, and the items that pass."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from serving.answers.features import ItemFeatures
from serving.errors import RefusedError
from serving.index.allowed import Allowed

_KEPT = 32  # filters whose items are remembered


class Range(BaseModel):
    """Bounds of a number, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    at_least: float | None = Field(None, strict=True)
    at_most: float | None = Field(None, strict=True)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        return self


def _shaped(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    if isinstance(value, Mapping):
        return Range.model_validate(value)
    if isinstance(value, tuple | Range):
        return value
    raise ValueError("a value, a list of values, or bounds {at_least, at_most} are expected")


_Value = Annotated[str, Field(max_length=512)]
_Values = Annotated[tuple[_Value, ...], Field(max_length=1000)]
Condition = Annotated[_Value | _Values | Range, BeforeValidator(_shaped)]
Filters = Annotated[dict[_Value, Condition], Field(max_length=64)]
"""Column -> one of these values, or a number within bounds."""
Conditions = tuple[tuple[str, tuple[str, ...] | Range], ...]
"""Filters that were checked, in one order: equal ones are the same key."""


class FilterIndex:
    """Finds the items that pass, and remembers those of the last filters."""

    def __init__(self, features: ItemFeatures) -> None:
        self._features = features
        self.allowed = lru_cache(_KEPT)(self._allowed)

    def check(self, filters: Mapping[str, Any], where: str) -> Conditions:
        """Return filters as a key.

        Raises:
            RefusedError: a column is not there, or is not of the kind that is asked for.
        """
        for name, condition in filters.items():
            kind, there = (
                ("number", self._features.numbers)
                if isinstance(condition, Range)
                else ("category", self._features.categories)
            )
            if name not in there:
                told = f"{where}.{name}: items have no {kind} of this name ({self._there()})"
                raise RefusedError(400, "bad_request", told)
        keyed = ((name, c if isinstance(c, Range) else tuple(sorted(set(c)))) for name, c in filters.items())
        return tuple(sorted(keyed, key=lambda pair: pair[0]))

    def flags(self, conditions: Conditions) -> np.ndarray:
        """Return which items pass all conditions, bool [I]."""
        found = np.ones(self._features.num_items, bool)
        for name, condition in conditions:
            if isinstance(condition, Range):
                found &= self._features.in_range(name, condition.at_least, condition.at_most)
            else:
                found &= self._features.has_value(name, condition)
        return found

    def _allowed(self, conditions: Conditions, within: Allowed | None) -> Allowed:
        flags = self.flags(conditions)
        return Allowed.flagged(flags if within is None else flags & within.flags)

    def _there(self) -> str:
        categories, numbers = (
            ", ".join(names) or "none" for names in (self._features.categories, self._features.numbers)
        )
        return f"categories: {categories}; numbers: {numbers}"
