"""From what is told of new items to the features that point-wise tasks read, by the values that the run knows."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from raysys.data.batches import Columns
from raysys.data.catalog import vocabularies
from raysys.data.columns import ColumnSchema
from raysys.data.schema import CATEGORY_PREFIX, FIRST_ITEM, NUMBER_PREFIX
from raysys.runs import Run
from serving.answers.encoding import codes_of, lists_of, numbers_of
from serving.catalogue.changes import FieldValue


class ItemDescriptions:
    """Encodes by the catalog of one run; values that it does not have are unknown."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def of(self, rows: Sequence[Mapping[str, FieldValue]]) -> Columns:
        """Return the features of items [N] from their fields, by columns of the catalog."""
        if not rows:
            return Columns()
        schema = self._schema
        numbers = {name: torch.from_numpy(numbers_of(rows, NUMBER_PREFIX + name)) for name in schema.numbers}
        categories = {}
        for name in schema.categories:
            column, index = CATEGORY_PREFIX + name, self._indices[name]
            if name in schema.lists:
                several = [{column: _several(row.get(column))} for row in rows]
                codes = lists_of(several, column, index, schema.lists[name])
            else:
                codes = codes_of(rows, column, index)
            categories[name] = torch.from_numpy(codes).long()
        return Columns(numbers, categories)

    @cached_property
    def _schema(self) -> ColumnSchema:
        head = self._run.network.recommender.pair_head
        return ColumnSchema() if head is None else head.columns.schema

    @cached_property
    def _indices(self) -> dict[str, dict[str, int]]:
        values = vocabularies(self._run.catalog.table)
        return {
            name: {value: place + FIRST_ITEM for place, value in enumerate(values[CATEGORY_PREFIX + name].to_pylist())}
            for name in self._schema.categories
        }


def _several(value: FieldValue) -> FieldValue:
    return [value] if isinstance(value, str) else value
