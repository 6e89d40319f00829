"""What point-wise tasks are told of a (state, item) pair: both vectors, their product, and the fields around them.

Legend of shapes: N pairs, B users, D width, E width of what is told, G numbers, M most values of a category with
several.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raysys.component import FrozenConfig
from raysys.data.batches import Columns
from raysys.data.catalog import Catalog
from raysys.data.columns import ColumnSchema, values_of
from raysys.data.quantiles import Quantiles
from raysys.data.schema import FIRST_ITEM, UNKNOWN
from raysys.model.fields import FieldEncoder
from raysys.model.lookup import look_up
from raysys.model.target_encoding import TargetEncodingConfig
from raysys.model.told import Told

FieldsOf = Literal["users", "items", "context"]


class FieldsConfig(FrozenConfig):
    """The columns of a dataset that point-wise tasks see."""

    of: tuple[FieldsOf, ...] = ("users", "items", "context")
    """Features of users and items, context of the event. The item's id is always a field."""
    width: int = Field(8, ge=1)
    """Width of the vector of a field."""
    target_encoding: TargetEncodingConfig | None = None
    """Means of the labels of items, of items of the same categories and of the same context, as further fields."""
    totals: bool = False
    """The share of each kind of event among a user's tokens before the target, and the means of the labels of `tokens`,
    as further fields."""


@dataclass(frozen=True)
class ColumnSchemas:
    """The columns that a dataset has."""

    users: ColumnSchema
    items: ColumnSchema
    context: ColumnSchema


@dataclass(frozen=True)
class Pairs:
    """Pairs of a state and an item, with what is known around them."""

    states_ND: Tensor
    vectors_ND: Tensor  # of the items
    items_N: Tensor  # i64
    rows_N: Tensor  # i64, user of the pair among the B
    num_users: int  # B
    users: Columns  # [B]: several pairs of a user are embedded once
    items: Columns  # [N]
    context: Columns  # [N]
    statistics_NF: Tensor  # target encodings of the items, totals of the users; F may be 0


class PairEncoder(nn.Module):
    """Puts side by side what is known of a pair."""

    def __init__(
        self,
        config: FieldsConfig,
        schemas: ColumnSchemas,
        width: int,
        vocabulary_size: int,
        num_statistics: int,
        normalise: bool = True,
    ) -> None:
        """Build for a dataset.

        Without `normalise` vectors keep their lengths: of a table's rows these say how much was learned, and to
        normalise one that training hardly moved would make full-sized noise of its random start.
        """
        super().__init__()
        there = {side: getattr(schemas, side) for side in config.of}
        encoders = {f"of_{side}": FieldEncoder(schema, config.width) for side, schema in there.items() if schema}
        self.fields = nn.ModuleDict(encoders)  # a module cannot be called "items" there
        self.item_id = nn.Embedding(vocabulary_size, config.width)
        nn.init.normal_(self.item_id.weight, std=0.05)
        self.norm = nn.LayerNorm(3 * width) if normalise else nn.Identity()
        num_fields = 1 + sum(schema.num_columns for schema in there.values())
        self.out_width = 3 * width + num_fields * config.width + num_statistics
        """E."""

    def observe(self, quantiles: Quantiles) -> None:
        """Take the quantiles of all numbers over the training period."""
        for name, encoder in self.fields.items():
            encoder.observe(getattr(quantiles, name.removeprefix("of_")))  # type: ignore[operator]

    def forward(self, pairs: Pairs) -> Told:
        """Return the rows [N, E]."""
        shape = tuple(pairs.items_N.shape)
        vectors = (pairs.states_ND, pairs.vectors_ND, pairs.states_ND * pairs.vectors_ND)
        columns: dict[str, tuple[Columns, tuple[int, ...]]] = {
            "of_users": (pairs.users, (pairs.num_users,)),
            "of_items": (pairs.items, shape),
            "of_context": (pairs.context, shape),
        }
        encoded = {name: encoder(*columns[name]).flatten(-2) for name, encoder in self.fields.items()}
        parts = {
            "vectors": self.norm(torch.cat(vectors, dim=-1)),
            "item_id": look_up(pairs.items_N, self.item_id.weight),
            **encoded,
            "statistics": pairs.statistics_NF,
        }
        names = list(parts)
        before = names[: names.index("of_users")] if "of_users" in parts else names
        users_BU = parts.pop("of_users", None)
        users_at = sum(parts[name].shape[1] for name in before)
        return Told(torch.cat(list(parts.values()), dim=-1), users_BU, pairs.rows_N, users_at)


class ItemColumns(nn.Module):
    """The features of all items, kept with the weights so that a run needs no catalog to answer."""

    numbers_VG: Tensor

    def __init__(self, schema: ColumnSchema, vocabulary_size: int) -> None:
        super().__init__()
        self.schema, self.vocabulary_size = schema, vocabulary_size
        self.register_buffer("numbers_VG", torch.full((vocabulary_size, len(schema.numbers)), torch.nan))
        for at, name in enumerate(schema.categories):
            shape = (vocabulary_size, schema.lists[name]) if name in schema.lists else (vocabulary_size,)
            self.register_buffer(f"category_{at}", torch.full(shape, UNKNOWN, dtype=torch.int32))

    def observe(self, catalog: Catalog) -> None:
        """Take the features of the items of training."""
        values = values_of(catalog.table)
        for at, name in enumerate(self.schema.numbers):
            self.numbers_VG[FIRST_ITEM:, at] = torch.from_numpy(values.numbers[name])
        for at, name in enumerate(self.schema.categories):
            self.get_buffer(f"category_{at}")[FIRST_ITEM:] = torch.from_numpy(values.categories[name])

    def forward(self, items_N: Tensor) -> Columns:
        """Return the features of items [N]."""
        numbers = dict(zip(self.schema.numbers, self.numbers_VG.index_select(0, items_N).unbind(-1), strict=True))
        categories = {
            name: self.get_buffer(f"category_{at}").index_select(0, items_N).long()
            for at, name in enumerate(self.schema.categories)
        }
        return Columns(numbers, categories)
