import numpy as np
import pytest
import torch

from raysys.contracts.conftest import contract_dataset, contract_reader  # noqa: F401
from raysys.data.batches import make_batch, make_queries
from raysys.data.reader import history_rows
from raysys.data.schema import UNKNOWN, Split
from raysys.errors import UserError
from raysys.model.recommender import ModelConfig
from raysys.tasks.masked_item import MaskedItem
from raysys.tasks.multitask import MultiTask
from raysys.tasks.next_item import NextItem
from raysys.tasks.rating import Rating

LENGTH = 8


@pytest.fixture
def network_of(contract_dataset):  # noqa: F811
    def make(backbone="bert4rec", tasks=None, **shares):
        torch.manual_seed(0)
        model = ModelConfig(width=8, max_length=LENGTH, dropout=0.0, backbone={"kind": backbone})
        return MultiTask(model, tasks or {"hidden": MaskedItem.Config(**shares)}, contract_dataset.manifest).eval()

    return make


@pytest.fixture
def batch_of(contract_reader):  # noqa: F811
    def make(rows, key=1, split=Split.TRAIN, window=None):
        users = contract_reader.rows(np.asarray(rows))
        return make_batch(users, split, contract_reader.is_history, LENGTH, window, key=key)

    return make


def _tokens(reader, row):
    events = reader.rows(np.array([row]))
    return events.items[events.marks == Split.TRAIN].tolist()


def test_every_training_event_may_be_hidden(network_of, batch_of, contract_reader):  # noqa: F811
    (view,) = network_of(mask_share=1.0, last_share=0.0).prepare(batch_of(range(20)))
    for row in range(20):
        tokens = _tokens(contract_reader, row)
        kept = tokens[-LENGTH - 1 :]
        hidden = view.targets.mask_BC[row]
        # A window that does not begin with the history has a first token that was a target of an earlier one.
        wanted = kept if len(kept) == len(tokens) else kept[1:]
        assert view.targets.items_BC[row][hidden].tolist() == wanted
        assert view.targets.anchor_BC[row].tolist() == list(range(len(hidden)))
        assert (view.history.items_BL[row][hidden] == UNKNOWN).all()
        assert view.history.mask_BL[row].tolist() == [at < len(kept) for at in range(len(hidden))]
    assert view.history.items_BL.shape[1] == LENGTH + 1


def test_what_is_not_hidden_is_seen(network_of, batch_of):
    network = network_of(mask_share=0.5, last_share=0.0)
    batch = batch_of(range(50))
    (view,) = network.prepare(batch)
    hidden = view.targets.mask_BC
    assert torch.equal(view.history.items_BL[~hidden], view.targets.items_BC[~hidden])
    assert hidden[view.history.mask_BL].float().mean() == pytest.approx(0.5, abs=0.08)
    assert not hidden[~view.history.mask_BL].any()


def test_of_everybody_something_is_hidden(network_of, batch_of):
    (view,) = network_of(mask_share=1e-6, last_share=0.0).prepare(batch_of(range(100)))
    assert (view.targets.mask_BC.sum(1) == 1).all()
    assert len(set(view.targets.mask_BC.int().argmax(1).tolist())) > 3, "anywhere in the history"


def test_draws_go_by_step_and_user(network_of, batch_of):
    network = network_of(mask_share=0.5)
    hidden = network.prepare(batch_of([3, 5, 9]))[0].targets.mask_BC
    again = network.prepare(batch_of([9, 3]))[0].targets.mask_BC
    assert torch.equal(hidden[[2, 0], : again.shape[1]], again)
    assert not torch.equal(hidden, network.prepare(batch_of([3, 5, 9], key=2))[0].targets.mask_BC)


def test_what_is_asked_is_what_was_learned(network_of, batch_of):
    """With last_share 1 only the newest token is hidden: the same view as when its history asks what comes next."""
    network = network_of(last_share=1.0)
    batch = batch_of(range(20))
    (view,) = network.prepare(batch)
    asked, place_B = network.retriever().ask(batch.history, batch.history.mask_BL.sum(1) - 1)
    assert torch.equal(asked.items_BL, view.history.items_BL)
    assert torch.equal(asked.mask_BL, view.history.mask_BL)
    assert torch.equal(place_B, view.targets.mask_BC.int().argmax(1))
    assert (view.targets.mask_BC.sum(1) == 1).all()


def test_the_past_that_is_not_trained_on_is_never_hidden(network_of, batch_of):
    (view,) = network_of(mask_share=1.0).prepare(batch_of(range(5), split=Split.TEST))
    assert (view.targets.mask_BC.sum(1) == 1).all()
    assert torch.equal(view.targets.mask_BC.int().argmax(1), view.history.mask_BL.sum(1) - 1)


def test_it_asks_behind_any_history(network_of):
    """Full, short and empty; what stands behind the anchor is not seen."""
    network = network_of()
    task = network.retriever()
    full, short = list(range(2, 2 + LENGTH)), [7, 9, 4]
    rows = history_rows([np.array(row, np.int32) for row in (full, short, [])])
    queries = make_queries(rows, Split.NONE, np.array([True]), LENGTH)
    asked, place_B = task.ask(queries.history, queries.anchor_B)
    assert asked.items_BL[0].tolist() == [*full, UNKNOWN]
    assert asked.items_BL[1, :4].tolist() == [*short, UNKNOWN]
    assert asked.items_BL[2, 0] == UNKNOWN
    assert asked.mask_BL.sum(1).tolist() == [LENGTH + 1, 4, 1]
    assert place_B.tolist() == [LENGTH, 3, 0]
    states = network.recommender(asked).state_before(place_B.unsqueeze(1))
    assert states.isfinite().all()
    earlier = network.recommender(task.ask(queries.history, torch.tensor([2, 0, -1]))[0])
    alone = history_rows([np.array(row, np.int32) for row in (full[:3], short[:1], [])])
    shorter = make_queries(alone, Split.NONE, np.array([True]), LENGTH)
    wanted = network.recommender(task.ask(shorter.history, shorter.anchor_B)[0])
    at = torch.tensor([[3], [1], [0]])
    assert torch.allclose(earlier.state_before(at), wanted.state_before(at), atol=1e-5)


@pytest.mark.parametrize("task", [NextItem.Config(), Rating.Config()])
def test_who_knows_the_future_is_not_asked_for_it(task, network_of):
    with pytest.raises(UserError, match=r"tasks\.other: .*bert4rec know what comes later.*masked_item"):
        network_of(tasks={"hidden": MaskedItem.Config(), "other": task})


def test_who_looks_back_only_is_not_asked_for_what_is_hidden(contract_dataset):  # noqa: F811
    with pytest.raises(UserError, match=r"tasks\.hidden: .*sasrec looks back only.*bert4rec"):
        MultiTask(ModelConfig(), {"hidden": MaskedItem.Config()}, contract_dataset.manifest)


def test_only_tokens_can_be_hidden(contract_dataset):  # noqa: F811
    manifest = contract_dataset.manifest.model_copy(update={"event_names": ("event", "show"), "history": ("event",)})
    with pytest.raises(UserError, match=r"tasks.hidden.events: 'show' is no history event.*history: event"):
        MultiTask(ModelConfig(), {"hidden": MaskedItem.Config(events=("show",))}, manifest)
