"""Every backbone and item encoder: shapes, causality, no influence of padding, gradients everywhere."""

import pytest
import torch

from raysys.model.backbones import BACKBONES
from raysys.model.items import ITEM_ENCODERS

WIDTH, LENGTH, USERS, ITEMS = 16, 12, 3, 50


def _backbone(kind):
    torch.manual_seed(0)
    part = BACKBONES[kind]
    return part(part.Config(), WIDTH, LENGTH, 0.0).eval()


def _inputs(length=LENGTH):
    generator = torch.Generator().manual_seed(1)
    x_BLD = torch.randn(USERS, length, WIDTH, generator=generator)
    times_BL = torch.arange(length).repeat(USERS, 1) * 3_600_000
    return x_BLD, times_BL, torch.ones(USERS, length, dtype=torch.bool)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone_shape(kind):
    states = _backbone(kind)(*_inputs())
    assert states.shape == (USERS, LENGTH, WIDTH)
    assert states.isfinite().all()


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("at", [0, 5, LENGTH - 1])
def test_backbone_is_causal(kind, at):
    backbone = _backbone(kind)
    x_BLD, times_BL, mask_BL = _inputs()
    before = backbone(x_BLD, times_BL, mask_BL)
    changed = x_BLD.clone()
    changed[:, at] = torch.randn(WIDTH)
    after = backbone(changed, times_BL, mask_BL)
    assert torch.allclose(before[:, :at], after[:, :at], atol=1e-5), f"{kind}: a state saw its future"
    assert not torch.allclose(before[:, at:], after[:, at:], atol=1e-3), f"{kind}: a state ignores its own token"


@pytest.mark.parametrize("kind", BACKBONES)
def test_padding_changes_no_state(kind):
    backbone = _backbone(kind)
    x_BLD, times_BL, mask_BL = _inputs(8)
    alone = backbone(x_BLD, times_BL, mask_BL)
    padded = torch.cat([x_BLD, torch.full((USERS, 4, WIDTH), 7.0)], dim=1)
    times = torch.cat([times_BL, torch.zeros(USERS, 4, dtype=torch.long)], dim=1)
    mask = torch.cat([mask_BL, torch.zeros(USERS, 4, dtype=torch.bool)], dim=1)
    assert torch.allclose(alone, backbone(padded, times, mask)[:, :8], atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_backbone_trains_every_parameter(kind):
    backbone = _backbone(kind).train()
    backbone(*_inputs()).square().mul(torch.rand(WIDTH)).sum().backward()
    dead = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead, f"{kind}: no finite gradient for {dead}"


@pytest.mark.parametrize("kind", BACKBONES)
def test_an_empty_history_is_harmless(kind):
    x_BLD, times_BL, mask_BL = _inputs(1)
    states = _backbone(kind)(x_BLD, times_BL, torch.zeros_like(mask_BL))
    assert states.shape == (USERS, 1, WIDTH)


@pytest.mark.parametrize("kind", ITEM_ENCODERS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4)])
def test_item_encoder_shape(kind, shape):
    part = ITEM_ENCODERS[kind]
    encoder = part(part.Config(), ITEMS, WIDTH).eval()
    assert encoder(torch.randint(ITEMS, shape)).shape == (*shape, WIDTH)


@pytest.mark.parametrize("kind", ITEM_ENCODERS)
def test_item_table_agrees_with_lookup(kind):
    part = ITEM_ENCODERS[kind]
    encoder = part(part.Config(), ITEMS, WIDTH).eval()
    assert torch.allclose(encoder.table(), encoder(torch.arange(ITEMS)))
