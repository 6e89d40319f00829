"""A few users with what they had, what was held out and what was ranked first: chosen by a hash, never by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raysys.data.batches import Queries, make_queries
from raysys.data.catalog import Catalog
from raysys.data.hashing import hash_ids
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.data.vocabulary import Vocabulary
from raysys.evaluation.outcomes import Kept
from raysys.evaluation.ranking import hits

SHOWN = 10
"""Items of a list that an example shows."""

KINDS = ("hit", "near miss", "miss")
"""A held-out item stands in the part of the list that is shown, further down in it, or nowhere in it."""

_PER_KIND = 4
_SAMPLE = 4096  # users among whom is chosen: reading more of a large dataset would show nothing else
_NEWEST = 8


@dataclass(frozen=True)
class Item:
    """An item as people know it; without an id one that training never saw."""

    item_id: str | None
    title: str | None

    @property
    def name(self) -> str:
        """The title, else the id."""
        return self.title or self.item_id or "(an item that training never saw)"


@dataclass(frozen=True)
class HeldOut:
    """A held-out item."""

    item: Item
    place: int
    """In the list, from 1; 0 where it stands nowhere in it."""
    had_before: bool
    """Whether the user already had it: then it is no candidate unless `evaluation.exclude_seen` is false."""


@dataclass(frozen=True)
class Example:
    """One user."""

    user_id: str
    kind: str
    """One of KINDS, by the held-out item that stands highest."""
    history: tuple[Item, ...]
    """The newest of what the user had before the split, newest last."""
    num_earlier: int
    """History events before these."""
    held_out: tuple[HeldOut, ...]
    ranked: tuple[Item, ...]
    """The head of the list."""
    found: frozenset[int]
    """Places among `ranked`, from 1, that hold a held-out item."""


@dataclass(frozen=True)
class Examples:
    """Examples, and what they were chosen from."""

    chosen: tuple[Example, ...]
    split: str
    shares: Mapping[str, float]
    """Share of each of KINDS among the users sampled."""
    num_sampled: int
    num_users: int
    """Users of the split with a list."""
    depth: int
    """Items kept of each list."""


def find_examples(kept: Kept, split: Split, reader: ShardReader, vocabulary: Vocabulary, catalog: Catalog) -> Examples:
    """Choose at most 12 users with lists: the first four of each of KINDS in the order of a hash of the user ids.

    Where a kind has fewer, users of the other kinds that come next in this order take their places. `reader` is that
    of the dataset whose rows the outcomes name; vocabulary and catalog are those of the run.
    """
    items_UK, ids = kept.lists(), kept.table["user_id"]
    order = np.argsort(hash_ids(ids), kind="stable")
    ranked = order[(items_UK[order] >= FIRST_ITEM).any(axis=1)]
    sample = ranked[:_SAMPLE]
    rows = reader.rows(kept.table["row"].to_numpy()[sample])
    queries = make_queries(rows, split, reader.is_history, max_length=1)
    lists_UK, items = items_UK[sample], _Items(vocabulary, catalog)
    kinds_U = _kinds(lists_UK, queries)
    return Examples(
        chosen=tuple(
            _example(str(ids[int(sample[at])]), KINDS[kinds_U[at]], lists_UK[at], _of_user(queries, at), items)
            for at in choose(kinds_U)
        ),
        split=split.name.lower(),
        shares={kind: float(np.mean(kinds_U == at)) for at, kind in enumerate(KINDS)} if len(sample) else {},
        num_sampled=len(sample),
        num_users=len(ranked),
        depth=items_UK.shape[1],
    )


def choose(kinds_U: np.ndarray) -> list[int]:
    """Return whom to show, by their places in the order of the hash: in the order of KINDS, then of the hash."""
    places = np.arange(len(kinds_U))
    first = [place for kind in range(len(KINDS)) for place in places[kinds_U == kind][:_PER_KIND]]
    others = np.setdiff1d(places, first)[: _PER_KIND * len(KINDS) - len(first)]
    return sorted((int(place) for place in [*first, *others]), key=lambda place: (kinds_U[place], place))


class _Items:
    """Looks up how people know an item."""

    def __init__(self, vocabulary: Vocabulary, catalog: Catalog) -> None:
        self.vocabulary, self.catalog = vocabulary, catalog

    def __call__(self, index: int) -> Item:
        if index < FIRST_ITEM:
            return Item(None, None)
        one = np.array([index])
        return Item(self.vocabulary.decode(one)[0].as_py(), self.catalog.titles(one)[0])


def _kinds(lists_UK: np.ndarray, queries: Queries) -> np.ndarray:
    """Return the place of every user in KINDS [U]."""
    hits_UK = hits(lists_UK, queries.relevant_rows_N.numpy(), queries.relevant_items_N.numpy())
    return np.where(hits_UK[:, :SHOWN].any(axis=1), 0, np.where(hits_UK.any(axis=1), 1, 2))


def _of_user(queries: Queries, user: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the items that a user had, oldest first, and those that were held out, each once."""
    had = queries.seen_items_N[queries.seen_rows_N == user].numpy()
    held_out = queries.relevant_items_N[queries.relevant_rows_N == user].numpy()
    return had, np.array(list(dict.fromkeys(held_out.tolist())), np.int64)


def _example(user_id: str, kind: str, list_K: np.ndarray, own: tuple[np.ndarray, np.ndarray], items: _Items) -> Example:
    had, held_out = own
    place_of = {int(item): place for place, item in enumerate(list_K, start=1) if item >= FIRST_ITEM}
    places = [place_of.get(int(item), 0) for item in held_out]
    return Example(
        user_id=user_id,
        kind=kind,
        history=tuple(items(int(item)) for item in had[-_NEWEST:]),
        num_earlier=max(len(had) - _NEWEST, 0),
        held_out=tuple(
            HeldOut(items(int(item)), place, bool(item >= FIRST_ITEM and item in had))
            for item, place in zip(held_out, places, strict=True)
        ),
        ranked=tuple(items(int(item)) for item in list_K[:SHOWN] if item >= FIRST_ITEM),
        found=frozenset(place for place in places if 0 < place <= SHOWN),
    )
