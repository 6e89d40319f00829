import pytest
import torch
import torch.nn.functional as F

from raysys.data.batches import History
from raysys.model.backbones.backbone import ModelContext
from raysys.model.backbones.bert4rec import BERT4Rec
from raysys.model.backbones.hstu import HSTU, time_buckets
from raysys.model.backbones.ligr import LiGR
from raysys.model.backbones.sasrec import SASRec

WIDTH, LENGTH, USERS, HEADS = 8, 6, 2, 2


def _history(lengths=(LENGTH, LENGTH)):
    generator = torch.Generator().manual_seed(0)
    items_BL = torch.randint(2, 20, (USERS, LENGTH), generator=generator)
    times_BL = 1_700_000_000_000 + torch.randint(10**8, (USERS, LENGTH), generator=generator).cumsum(1)
    mask_BL = torch.arange(LENGTH) < torch.tensor(lengths).unsqueeze(1)
    return History(items_BL, torch.zeros_like(items_BL), times_BL, mask_BL, torch.arange(USERS))


def _made(part, **sizes):
    torch.manual_seed(0)
    backbone = part(part.Config(num_heads=HEADS, **sizes), ModelContext(WIDTH, LENGTH, 0.0, USERS)).eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return backbone, torch.nn.Embedding(20, WIDTH)


def _heads(x_LD):
    return x_LD.view(len(x_LD), HEADS, -1).unbind(1)


def _attention(layer, x_LD, visible_LL):
    mixed = []
    for q, k, v in zip(*(_heads(part) for part in layer.qkv(x_LD).chunk(3, dim=-1)), strict=True):
        scores = (q @ k.T) / q.shape[1] ** 0.5
        mixed.append(scores.masked_fill(~visible_LL, -torch.inf).softmax(-1) @ v)
    return layer.out(torch.cat(mixed, dim=-1))


@pytest.mark.parametrize(("part", "visible"), [(SASRec, "before"), (LiGR, "before"), (BERT4Rec, "all")])
def test_a_transformer_is_what_its_equations_say(part, visible):
    backbone, items = _made(part)
    history = _history((LENGTH, 4))
    states = backbone(history, items)
    for user, length in enumerate((LENGTH, 4)):
        x_LD = items(history.items_BL[user, :length]) * WIDTH**0.5 + backbone.position.weight[:length]
        visible_LL = torch.ones(length, length, dtype=torch.bool)
        visible_LL = visible_LL if visible == "all" else visible_LL.tril()
        for block in backbone.blocks:
            branch = _attention(block.attention, block.attention_norm(x_LD), visible_LL)
            x_LD = x_LD + (torch.sigmoid(block.attention_gate(x_LD)) if part is LiGR else 1) * branch
            inner = block.feedforward_norm(x_LD)
            if part is LiGR:
                first, second = block.feedforward.inward.weight.chunk(2)
                branch = block.feedforward.outward(F.silu(inner @ first.T) * (inner @ second.T))
                x_LD = x_LD + torch.sigmoid(block.feedforward_gate(x_LD)) * branch
            else:
                rise, _, _, fall = block.feedforward
                x_LD = x_LD + fall((F.relu if part is SASRec else F.gelu)(rise(inner)))
        assert torch.allclose(states[user, :length], backbone.norm(x_LD), atol=1e-4)


def test_hstu_is_what_its_equations_say():
    backbone, items = _made(HSTU)
    history = _history()
    states, buckets = backbone(history, items), time_buckets(history.times_BL)
    for user in range(USERS):
        x_LD = items(history.items_BL[user]) * WIDTH**0.5
        for block in backbone.blocks:
            u, v, q, k = F.silu(block.uvqk(block.norm(x_LD))).chunk(4, dim=-1)
            mixed_LD = torch.zeros(LENGTH, WIDTH)
            for head, (q_L, k_L, v_L) in enumerate(zip(_heads(q), _heads(k), _heads(v), strict=True)):
                for at in range(LENGTH):
                    for before in range(at + 1):
                        bias = backbone.bias.places_L[at - before] + backbone.bias.times_T[buckets[user, at, before]]
                        size = WIDTH // HEADS
                        weight = F.silu(q_L[at] @ k_L[before] + bias)
                        mixed_LD[at, head * size : (head + 1) * size] += weight * v_L[before]
            x_LD = x_LD + block.out(u * block.mixed_norm(mixed_LD))
        assert torch.allclose(states[user], backbone.norm(x_LD), atol=1e-4)


def test_time_falls_into_two_buckets_per_doubling():
    seconds = [0, 0.4, 1, 2, 3, 60, 90, 3600, 86_400, 30 * 86_400]
    times_BL = (torch.tensor([[0.0], *[[second] for second in seconds]]) * 1000).long()
    pairs = torch.stack([torch.zeros(len(seconds), dtype=torch.long), times_BL[1:, 0]], dim=1)
    found = time_buckets(pairs)[:, 1, 0]
    whole = torch.tensor(seconds).floor() + 1
    exponent = whole.log2().floor()
    assert torch.equal(found, (2 * exponent + (whole >= 1.5 * 2**exponent)).long())


@pytest.mark.parametrize("times", [(0, 0, 0), (5, 5, 5)])
def test_events_without_times_are_all_alike(times):
    buckets = time_buckets(torch.tensor([times]))[0]
    assert (buckets[torch.ones(3, 3, dtype=torch.bool).tril()] == 0).all()
    assert (buckets.triu(1)[torch.ones(3, 3, dtype=torch.bool).triu(1)] == 63).all()


@pytest.mark.parametrize("part", [SASRec, HSTU])
def test_heads_must_divide_the_width(part):
    with pytest.raises(ValueError, match=r"num_heads: 3 does not divide model\.width 8"):
        part(part.Config(num_heads=3), ModelContext(WIDTH, LENGTH, 0.0, USERS))
