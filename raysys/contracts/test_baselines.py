"""Every baseline: fresh finite scores in blocks, whatever the batch, and blind to what the splits hold out."""

import numpy as np
import pytest
import torch

from raysys.data.batches import make_queries
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.baselines import BASELINES

ROWS = np.arange(0, 200, 7)


def _fitted(kind, dataset, reader):
    if kind == "als":
        pytest.importorskip("implicit")
    part = BASELINES[kind]
    return part(part.Config()).fit(dataset, reader)


def _queries(reader, rows=ROWS, split=Split.TEST):
    return make_queries(reader.rows(rows), split, reader.is_history, 5)


def _scores(scorer, queries):
    return scorer.block(scorer.ask(queries), 0, scorer.num_items)


@pytest.mark.parametrize("kind", BASELINES)
def test_scores_are_finite_and_of_every_item(kind, contract_dataset, contract_reader):
    scorer = _fitted(kind, contract_dataset, contract_reader)
    assert scorer.num_items == contract_dataset.manifest.num_items
    scores_BI = _scores(scorer, _queries(contract_reader))
    assert scores_BI.shape == (len(ROWS), scorer.num_items)
    assert scores_BI.dtype == torch.float32
    assert scores_BI.isfinite().all()


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("size", [1, 7, 39])
def test_blocks_side_by_side_are_the_whole(kind, size, contract_dataset, contract_reader):
    scorer = _fitted(kind, contract_dataset, contract_reader)
    asked = scorer.ask(_queries(contract_reader))
    whole_BI = scorer.block(asked, 0, scorer.num_items)
    starts = range(0, scorer.num_items, size)
    blocks = [scorer.block(asked, start, min(start + size, scorer.num_items)) for start in starts]
    torch.testing.assert_close(torch.cat(blocks, dim=1), whole_BI, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", BASELINES)
def test_the_caller_may_change_a_block(kind, contract_dataset, contract_reader):
    scorer = _fitted(kind, contract_dataset, contract_reader)
    asked = scorer.ask(_queries(contract_reader))
    first = scorer.block(asked, 3, 9)
    kept = first.clone()
    first.fill_(-torch.inf)
    assert torch.equal(scorer.block(asked, 3, 9), kept)


@pytest.mark.parametrize("kind", BASELINES)
def test_an_answer_does_not_depend_on_the_batch(kind, contract_dataset, contract_reader):
    scorer = _fitted(kind, contract_dataset, contract_reader)
    together_BI = _scores(scorer, _queries(contract_reader))
    for at, row in enumerate(ROWS[:5]):
        alone_1I = _scores(scorer, _queries(contract_reader, np.array([row])))
        torch.testing.assert_close(alone_1I[0], together_BI[at], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", BASELINES)
def test_nobody_is_an_empty_answer(kind, contract_dataset, contract_reader):
    scorer = _fitted(kind, contract_dataset, contract_reader)
    assert _scores(scorer, _queries(contract_reader, ROWS[:0])).shape == (0, scorer.num_items)


class _Altered:
    """A reader whose validation and test events name other items."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader = reader
        self.is_history = reader.is_history

    def rows(self, rows):
        found = self.reader.rows(rows)
        held_out = found.marks != Split.TRAIN
        found.items[held_out] = FIRST_ITEM + (found.items[held_out] + 11) % 40
        return found


@pytest.mark.parametrize("kind", BASELINES)
def test_held_out_events_teach_nothing(kind, contract_dataset, contract_reader):
    altered, everybody = _Altered(contract_reader), np.arange(contract_dataset.manifest.num_users)
    assert (altered.rows(everybody).items != contract_reader.rows(everybody).items).any()
    queries = _queries(contract_reader, split=Split.VALID)
    plain = _scores(_fitted(kind, contract_dataset, contract_reader), queries)
    assert torch.equal(_scores(_fitted(kind, contract_dataset, altered), queries), plain)


@pytest.mark.parametrize("kind", [kind for kind in BASELINES if kind != "popularity"])
def test_the_profile_decides(kind, contract_dataset, contract_reader):
    scores_BI = _scores(_fitted(kind, contract_dataset, contract_reader), _queries(contract_reader))
    assert len(scores_BI.unique(dim=0)) > len(ROWS) / 2
