"""Types of the fields that clients send, with limits that the OpenAPI document says."""

from typing import Annotated

from pydantic import Field

from serving.config import MOST_ITEMS

MOST_HISTORY = 1000
"""Ids in a list that a client sends: more than any model reads."""

Identifier = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00]*$")]
ItemId = Identifier
"""Of an item of the catalogue, or any other."""
UserId = Identifier
"""Of a user of the logs, or any other."""
ItemIds = Annotated[tuple[ItemId, ...], Field(max_length=MOST_HISTORY, fail_fast=True)]
"""Item ids, in an order that the field tells."""
SomeItems = Annotated[tuple[ItemId, ...], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]
"""One item or more, up to ten times `k_max`."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A number as JSON knows it: neither true nor a text of digits."""
Count = Annotated[int, Field(strict=True, ge=1, le=MOST_ITEMS)]
"""How many of something."""
