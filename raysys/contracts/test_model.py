"""Every backbone and item encoder: shapes, causality, no influence of padding, gradients everywhere."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from raysys.data.batches import History
from raysys.data.schema import FIRST_ITEM
from raysys.model.backbones import BACKBONES
from raysys.model.backbones.backbone import ModelContext
from raysys.model.items import ITEM_ENCODERS
from raysys.model.recommender import ItemTower, ModelConfig

WIDTH, LENGTH, USERS = 16, 12, 3
CAUSAL = [kind for kind, part in BACKBONES.items() if not part.bidirectional]


@pytest.fixture
def made(contract_dataset):
    """Make a backbone that has observed the dataset, and items in random places."""

    def make(kind):
        torch.manual_seed(0)
        part = BACKBONES[kind]
        context = ModelContext(WIDTH, LENGTH, 0.0, contract_dataset.manifest.num_users)
        backbone = part(part.Config(), context).eval()
        backbone.observe(contract_dataset)
        items = ItemTower(ModelConfig(width=WIDTH), contract_dataset.manifest.num_items + FIRST_ITEM)
        nn.init.normal_(items.encoders["id"].embedding.weight)
        return backbone, items

    return make


def _history(users, length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    items_BL = torch.randint(FIRST_ITEM, 30, (USERS, length), generator=generator)
    times_BL = torch.randint(10**9, (USERS, length), generator=generator).cumsum(1)
    mask_BL = torch.ones_like(items_BL, dtype=torch.bool)
    return History(items_BL, torch.zeros_like(items_BL), times_BL, mask_BL, torch.tensor(users))


KNOWN, NEW = (0, 1, 2), (-1, -1, -1)


def _states(backbone, items, history):
    return backbone(history, backbone.vectors(items))


@pytest.mark.parametrize("users", [KNOWN, NEW, (0, -1, 2)])
@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone_shape(kind, users, made):
    states = _states(*made(kind), _history(users))
    assert states.shape == (USERS, LENGTH, WIDTH)
    assert states.isfinite().all()


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("at", [0, 5, LENGTH - 1])
def test_backbone_is_causal(kind, at, made):
    backbone, items = made(kind)
    history = _history(NEW)
    before = _states(backbone, items, history)
    changed_BL, later_BL = history.items_BL.clone(), history.times_BL.clone()
    changed_BL[:, at] = 31
    later_BL[:, at + 1 :] += 10**9
    after = _states(backbone, items, replace(history, items_BL=changed_BL, times_BL=later_BL))
    assert torch.allclose(before[:, :at], after[:, :at], atol=1e-5), f"{kind}: a state saw its future"
    assert not torch.allclose(before[:, at], after[:, at], atol=1e-3), f"{kind}: a state ignores its own token"


@pytest.mark.parametrize("kind", [kind for kind, part in BACKBONES.items() if part.per_user])
def test_the_state_of_a_known_user_is_his_own(kind, made):
    backbone, items = made(kind)
    history = _history(KNOWN)
    states = _states(backbone, items, history)
    other = _states(backbone, items, replace(history, items_BL=history.items_BL.flip(1)))
    assert torch.equal(states, other)
    assert torch.equal(states, states[:, :1].expand_as(states))
    assert not torch.allclose(states[0], states[1], atol=1e-4)
    assert not torch.allclose(states, _states(backbone, items, _history(NEW)), atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind, part in BACKBONES.items() if part.bidirectional])
def test_a_bidirectional_state_sees_all_tokens(kind, made):
    backbone, items = made(kind)
    history = _history(KNOWN)
    changed_BL = history.items_BL.clone()
    changed_BL[:, -1] = 31
    before, after = (_states(backbone, items, replace(history, items_BL=it)) for it in (history.items_BL, changed_BL))
    assert not torch.isclose(before, after, atol=1e-4).all(-1).any()


@pytest.mark.parametrize("users", [KNOWN, NEW])
@pytest.mark.parametrize("kind", BACKBONES)
def test_padding_changes_no_state(kind, users, made):
    backbone, items = made(kind)
    alone, padded = _history(users, 8), _history(users)
    mask_BL = torch.arange(LENGTH).expand(USERS, -1) < 8
    items_BL, times_BL = padded.items_BL.clone(), padded.times_BL.clone()
    items_BL[:, :8], times_BL[:, :8] = alone.items_BL, alone.times_BL
    for filling in (0, 7):
        filled = replace(padded, items_BL=items_BL.where(mask_BL, filling), times_BL=times_BL, mask_BL=mask_BL)
        states = _states(backbone, items, filled)[:, :8]
        assert torch.allclose(_states(backbone, items, alone), states, atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone_trains_every_parameter(kind, made):
    backbone, items = made(kind)
    states = _states(backbone.train(), items, _history(KNOWN))
    (states * torch.rand(USERS, LENGTH, WIDTH)).sum().backward()
    dead = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead, f"{kind}: no finite gradient for {dead}"
    assert any(p.grad.any() for p in backbone.parameters())


@pytest.mark.parametrize("users", [KNOWN, NEW])
@pytest.mark.parametrize("kind", BACKBONES)
def test_an_empty_history_is_harmless(kind, users, made):
    history = _history(users, 1)
    history = replace(history, items_BL=history.items_BL * 0, mask_BL=torch.zeros_like(history.mask_BL))
    states = _states(*made(kind), history)
    assert states.shape == (USERS, 1, WIDTH)
    assert states.isfinite().all()


@pytest.mark.parametrize("kind", BACKBONES)
def test_weights_alone_bring_a_backbone_back(kind, made, contract_dataset):
    backbone, items = made(kind)
    context = ModelContext(WIDTH, LENGTH, 0.0, contract_dataset.manifest.num_users)
    again = BACKBONES[kind](BACKBONES[kind].Config(), context).eval()
    again.load_state_dict({name: tensor.clone() for name, tensor in backbone.state_dict().items()})
    for users in (KNOWN, NEW):
        states = _states(backbone, items, _history(users))
        assert torch.equal(states, _states(again, items, _history(users)))


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_evaluation_sees_the_weights_of_its_time(kind, made):
    backbone, items = made(kind)
    with torch.inference_mode():
        before = _states(backbone, items, _history(NEW))
    backbone.train()
    with torch.no_grad():
        for parameter in [*backbone.parameters(), *items.parameters()]:
            parameter.copy_(torch.randn_like(parameter))
    backbone.eval()
    with torch.inference_mode():
        after = _states(backbone, items, _history(NEW))
    assert torch.allclose(after, _states(backbone, items, _history(NEW)), atol=1e-5)
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("kind", ITEM_ENCODERS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4)])
def test_item_encoder_shape(kind, shape):
    part = ITEM_ENCODERS[kind]
    encoder = part(part.Config(), 50, WIDTH).eval()
    assert encoder(torch.randint(50, shape)).shape == (*shape, WIDTH)


@pytest.mark.parametrize("kind", ITEM_ENCODERS)
def test_item_table_agrees_with_lookup(kind):
    part = ITEM_ENCODERS[kind]
    encoder = part(part.Config(), 50, WIDTH).eval()
    assert torch.allclose(encoder.table(), encoder(torch.arange(50)))
