"""Tasks of pairs: what a probability is the product of, what is left out, what a censored time says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raysys.data.batches import make_batch
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, PAD, Split
from raysys.errors import UserError
from raysys.evaluation.evaluate import examine
from raysys.evaluation.judge import Judge
from raysys.evaluation.protocol import EvaluationConfig
from raysys.model.recommender import ModelConfig
from raysys.tasks import TASKS
from raysys.tasks.multitask import LazyLogits, MultiTask

LENGTH = 12


def _network(dataset, tasks, **model):
    torch.manual_seed(0)
    configs = {name: TASKS[node.get("kind", name)].Config(**node) for name, node in tasks.items()}
    settings = {"width": 16, "max_length": LENGTH, "dropout": 0.0, **model}
    network = MultiTask(ModelConfig.model_validate(settings), configs, dataset.manifest)
    network.observe(dataset)
    return network.eval()


@pytest.fixture
def batch(contract_dataset):
    reader = ShardReader(contract_dataset, columns=True)
    return make_batch(reader.rows(np.arange(40)), Split.TRAIN, reader.is_history, LENGTH, key=5)


def _loss(network, batch, name):
    encoded = network.recommender(batch.history)
    task = network.named_tasks()[name]
    return task.loss(encoded, batch, LazyLogits(network.named_tasks(), encoded, batch.targets))


def _with_label(batch, name, values):
    return replace(batch, targets=replace(batch.targets, labels={**batch.targets.labels, name: values}))


@pytest.mark.parametrize("kept", [1.0, 0.2])
def test_conversion_is_the_product_of_two_chances(contract_dataset, batch, kept):
    network = _network(
        contract_dataset, {"click": {"keep_negatives": kept}, "buy": {"kind": "conversion", "label": "purchase"}}
    )
    tasks, encoded = network.named_tasks(), network.recommender(batch.history)
    click, buy = tasks["click"], tasks["buy"]
    given = torch.sigmoid(buy.spread(buy.score(buy.outputs(encoded, batch.targets)), batch.targets))
    both = buy.predict(buy.logits(encoded, batch.targets))
    expected = click.predict(click.logits(encoded, batch.targets)) * given
    assert torch.allclose(both[batch.targets.mask_BC], expected[batch.targets.mask_BC], atol=1e-6)


def test_who_did_not_click_did_not_convert(contract_dataset, batch):
    network = _network(contract_dataset, {"click": {}, "buy": {"kind": "conversion", "label": "purchase"}})
    clicks = batch.targets.labels["click"]
    odd = _with_label(batch, "purchase", torch.where(clicks >= 1, torch.nan, 1.0))
    truth, mask = network.named_tasks()["buy"].truth(odd.targets), batch.targets.mask_BC
    assert truth[mask & (clicks >= 1)].isnan().all()
    assert (truth[mask & (clicks < 1)] == 0).all()
    assert truth[~mask].isnan().all()


def test_the_training_mean_of_a_conversion_is_of_everything_that_was_shown(contract_dataset):
    network = _network(contract_dataset, {"click": {}, "buy": {"kind": "conversion", "label": "purchase"}})
    judge = Judge.of(contract_dataset, EvaluationConfig(k=(5,), resamples=20), LENGTH)
    found = examine(judge, network, Split.TEST)
    events = judge.reader.rows(np.arange(contract_dataset.manifest.num_users))
    train, test = events.marks == Split.TRAIN, events.marks == Split.TEST
    rate, bought = events.labels["purchase"][train].mean(), events.labels["purchase"][test].mean()
    loss = -(bought * np.log(rate) + (1 - bought) * np.log(1 - rate))
    assert found.report.baselines["training_mean"]["buy.log_loss"].mean == pytest.approx(loss, abs=1e-6)


def test_conversion_learns_from_everything_that_was_shown(contract_dataset, batch):
    network = _network(contract_dataset, {"click": {}, "buy": {"kind": "conversion", "label": "purchase"}})
    clicked = batch.targets.labels["click"] >= 1
    told_of_clicks_alone = torch.where(clicked, batch.targets.labels["purchase"], torch.nan)
    sparse = _with_label(batch, "purchase", told_of_clicks_alone)
    assert network.counts((sparse, sparse))[1] == batch.targets.mask_BC.sum()
    assert torch.allclose(_loss(network, sparse, "buy"), _loss(network, batch, "buy"))
    probability = torch.sigmoid(network.named_tasks()["buy"].logits(network.recommender(batch.history), batch.targets))
    bought = (batch.targets.labels["purchase"] >= 1).float()
    mask = batch.targets.mask_BC
    by_hand = F.binary_cross_entropy(probability[mask], bought[mask], reduction="sum")
    assert torch.allclose(_loss(network, batch, "buy"), by_hand, rtol=1e-4)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"buy": {"kind": "conversion", "label": "purchase"}}, ["given", "no task 'click'"]),
        ({"buy": {"kind": "conversion", "label": "purchase", "given": "rating"}, "rating": {}}, ["no binary task"]),
        ({"like": {"kind": "binary", "label": "clik"}}, ["tasks.like.label", "did you mean 'click'"]),
        ({"click": {"events": ["shown"]}}, ["tasks.click.events", "'shown'"]),
        ({"watch_time": {"duration": "length"}}, ["tasks.watch_time.duration", "duration"]),
    ],
)
def test_what_is_missing_is_named(contract_dataset, tasks, words):
    with pytest.raises(UserError) as caught:
        _network(contract_dataset, tasks)
    for word in words:
        assert word in str(caught.value)


def test_negatives_left_out_are_drawn_by_place_and_made_good(contract_dataset, batch):
    network = _network(contract_dataset, {"click": {"keep_negatives": 0.25}}).train()
    task, labels, mask = network.named_tasks()["click"], batch.targets.labels["click"], batch.targets.mask_BC
    known = task.known(batch)
    assert torch.equal(known, task.known(batch))
    assert not torch.equal(known, task.known(replace(batch, key=6)))
    assert known[mask & (labels >= 1)].all()
    assert known[mask & (labels < 1)].float().mean().item() == pytest.approx(0.25, abs=0.12)
    assert torch.equal(task.eval().known(batch), mask)
    odds = 0.2 / 0.8 * 0.25
    assert task.predict(torch.tensor(0.2).logit()).item() == pytest.approx(odds / (1 + odds))


def test_events_whose_label_counts(contract_dataset, batch):
    network = _network(contract_dataset, {"click": {"events": list(contract_dataset.manifest.event_names)}})
    assert network.counts((batch,))[0] == batch.targets.mask_BC.sum()
    other = replace(batch, targets=replace(batch.targets, labels={"click": batch.targets.labels["click"] * torch.nan}))
    assert network.counts((other,))[0] == 0
    assert _loss(network, other, "click") == 0


def test_expected_time_is_the_chances_times_the_stretches(contract_dataset):
    task = _network(contract_dataset, {"watch_time": {}}).named_tasks()["watch_time"]
    moments = task.moments_M
    past = torch.arange(len(moments)) < 6
    outputs = torch.where(past, 50.0, -50.0).unsqueeze(0)
    assert task.score(outputs).item() == pytest.approx(moments[6].item(), rel=1e-4)


def test_a_time_that_ended_with_the_item_says_nothing_of_what_would_have_come(contract_dataset):
    task = _network(contract_dataset, {"watch_time": {"duration": "duration"}}).named_tasks()["watch_time"]
    moments = task.moments_M
    middle = (moments[7] + moments[8]) / 2
    times = torch.stack([middle, middle, middle])
    durations = torch.tensor([middle.item(), 1e6, float("nan")])
    past, told = task._moments(times, durations)
    assert torch.equal(past[0], (moments < middle).float())
    assert torch.equal(told[0], (moments < middle).float())
    assert told[1:].all()


def test_context_and_features_reach_the_tower(contract_dataset, batch):
    network = _network(contract_dataset, {"click": {}})
    task, mask = network.named_tasks()["click"], batch.targets.mask_BC
    moved = replace(batch.targets.context, numbers={"duration": batch.targets.context.numbers["duration"] * 0})
    other = replace(batch.targets, context=moved)
    encoded = network.recommender(batch.history)
    assert not torch.allclose(task.logits(encoded, batch.targets)[mask], task.logits(encoded, other)[mask])
    blind = _network(contract_dataset, {"click": {}}, fields={"of": []})
    task, encoded = blind.named_tasks()["click"], blind.recommender(batch.history)
    assert torch.equal(task.logits(encoded, batch.targets), task.logits(encoded, other))


def test_features_of_users_and_items_reach_the_tower(shop_dataset):
    reader = ShardReader(shop_dataset, columns=True)
    batch = make_batch(reader.rows(np.arange(8)), Split.TRAIN, reader.is_history, LENGTH, key=5)
    network = _network(shop_dataset, {"click": {}})
    task, mask = network.named_tasks()["click"], batch.targets.mask_BC
    before = task.logits(network.recommender(batch.history), batch.targets)[mask]
    assert batch.history.features.categories["city"].tolist() == [2 + (user % 3) for user in range(8)]
    older = replace(batch.history.features, numbers={"age": batch.history.features.numbers["age"] + 40})
    after = task.logits(network.recommender(replace(batch.history, features=older)), batch.targets)[mask]
    assert not torch.allclose(before, after)
    network.recommender.pair_head.columns.get_buffer("category_0").fill_(PAD)
    assert not torch.allclose(before, task.logits(network.recommender(batch.history), batch.targets)[mask])


def test_features_of_items_are_those_of_the_catalog(shop_dataset):
    columns = _network(shop_dataset, {"click": {}}).recommender.pair_head.columns
    ids = shop_dataset.vocabulary.item_ids.to_pylist()
    found = columns(torch.arange(len(ids)) + FIRST_ITEM)
    assert found.numbers["price"].tolist() == [float(item[1:]) for item in ids]
    assert (found.categories["kinds"] != PAD).sum(1).tolist() == [1 + int(item[1:]) % 2 for item in ids]


def test_tasks_share_one_view_of_the_targets(contract_dataset, batch, monkeypatch):
    network = _network(contract_dataset, {"click": {}, "rating": {}, "watch_time": {}})
    calls, head = [], network.recommender.pair_head
    forward = head.sharing.forward
    monkeypatch.setattr(head.sharing, "forward", lambda told: calls.append(1) or forward(told))
    network(network.prepare(batch))
    assert len(calls) == 1


def test_losses_compute_nothing_for_targets_without_a_label(contract_dataset, batch):
    sharing = {"kind": "mmoe", "dropout": 0.0}
    tasks = {"click": {"dropout": 0.0}, "watch_time": {"duration": "duration", "dropout": 0.0}}
    network = _network(contract_dataset, tasks, sharing=sharing)
    unknown = torch.zeros_like(batch.targets.mask_BC)
    unknown[:, ::2] = True
    labels = {name: values.masked_fill(unknown, torch.nan) for name, values in batch.targets.labels.items()}
    view = replace(batch, targets=replace(batch.targets, labels=labels))
    before = [_loss(network, view, name) for name in tasks]
    encoded = network.train().recommender(view.history)
    assert (
        len(encoded.shared(encoded.labelled(view.targets)).by_task["click"]) == (batch.targets.mask_BC & ~unknown).sum()
    )
    assert torch.allclose(torch.stack([_loss(network, view, name) for name in tasks]), torch.stack(before), rtol=1e-5)


def test_tokens_say_what_came_of_them_but_never_of_the_target(contract_dataset, batch):
    network = _network(
        contract_dataset, {"click": {}}, tokens={"events": True, "labels": ["click"], "context": ["duration"]}
    )
    task, mask = network.named_tasks()["click"], batch.targets.mask_BC
    before = task.logits(network.recommender(batch.history), batch.targets)
    at = 3
    clicks = batch.history.labels["click"].clone()
    clicks[:, at] = 1 - clicks[:, at]
    history = replace(batch.history, labels={**batch.history.labels, "click": clicks})
    after = task.logits(network.recommender(history), batch.targets)
    early = mask & (batch.targets.anchor_BC < at)
    assert torch.equal(before[early], after[early])
    late = mask & (batch.targets.anchor_BC >= at)
    assert not torch.allclose(before[late], after[late])


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ({"labels": ["clik"]}, ["model.tokens.labels", "did you mean 'click'"]),
        ({"context": ["x"]}, ["model.tokens.context"]),
    ],
)
def test_tokens_say_only_what_the_dataset_has(contract_dataset, tokens, words):
    with pytest.raises(UserError) as caught:
        _network(contract_dataset, {"click": {}}, tokens=tokens)
    for word in words:
        assert word in str(caught.value)


def test_labels_that_look_ahead_are_no_part_of_a_token(contract_dataset):
    manifest = contract_dataset.manifest
    joined = manifest.model_copy(update={"config": {**manifest.config, "labels": {"purchase": {"within": "7d"}}}})
    model = ModelConfig.model_validate({"tokens": {"labels": ["purchase"]}})
    with pytest.raises(UserError, match="would know what comes"):
        MultiTask(model, {"click": TASKS["click"].Config()}, joined)


def test_backbones_that_look_at_items_alone_refuse_tokens(contract_dataset):
    with pytest.raises(UserError, match="mf looks at items alone"):
        _network(contract_dataset, {"click": {}}, backbone={"kind": "mf"}, tokens={"events": True})
