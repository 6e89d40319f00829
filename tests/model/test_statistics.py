"""Statistics as fields: what labels of others say of an item, what a user's tokens add up to; no future in either."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from raysys.configfile import build
from raysys.data.batches import make_batch
from raysys.data.columns import ColumnSchema
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.label_sums import label_sums
from raysys.data.line import in_process
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, UNKNOWN, Split
from raysys.evaluation.evaluate import collect
from raysys.evaluation.judge import Judge
from raysys.evaluation.protocol import EvaluationConfig
from raysys.model.recommender import ModelConfig
from raysys.model.target_encoding import TargetEncoding, TargetEncodingConfig
from raysys.model.totals import HistoryTotals
from raysys.tasks import TASKS
from raysys.tasks.multitask import MultiTask

FOLDS, PRIOR = 4, 5.0


@pytest.fixture(scope="module")
def encoding(contract_dataset):
    manifest = contract_dataset.manifest
    config = TargetEncodingConfig(folds=FOLDS, prior=PRIOR)
    size = manifest.num_items + FIRST_ITEM
    made = TargetEncoding(config, manifest.item_columns, ColumnSchema(), size, manifest.labels)
    made.observe(contract_dataset, _categories(contract_dataset))
    return made


def _categories(dataset):
    return {
        name: torch.arange(dataset.manifest.num_items + FIRST_ITEM) % size
        for name, size in dataset.manifest.item_columns.categories.items()
    }


def _events(dataset, split=Split.TRAIN):
    reader = ShardReader(dataset)
    rows = reader.rows(np.arange(dataset.manifest.num_users))
    owner, chosen = np.repeat(rows.users, np.diff(rows.offsets)), rows.marks == split
    return owner[chosen], rows.items[chosen], {name: values[chosen] for name, values in rows.labels.items()}


def test_an_item_is_told_what_users_of_other_folds_did(encoding, contract_dataset):
    owner, items, labels = _events(contract_dataset)
    place = contract_dataset.manifest.labels.index("click")
    known = np.isfinite(labels["click"])
    mean = labels["click"][known].mean()

    def shrunk(item, among):
        mine = labels["click"][known & (items == item) & among]
        return (mine - mean).sum() / (len(mine) + PRIOR)

    every = np.arange(FIRST_ITEM, FIRST_ITEM + 10)
    whole = np.array([shrunk(item, True) for item in every])
    told = encoding.eval()(torch.from_numpy(every), _at(contract_dataset, every), {}, torch.zeros(10).long())[:, place]
    slope, centre = np.polyfit(whole, told.numpy(), 1)
    assert np.allclose(told.numpy(), slope * whole + centre, atol=1e-4), "centred and scaled, no more"
    for fold in range(FOLDS):
        others = np.array([shrunk(item, owner % FOLDS != fold) for item in every])
        users = torch.full((10,), fold + 2 * FOLDS)
        told = encoding.train()(torch.from_numpy(every), _at(contract_dataset, every), {}, users)[:, place]
        assert np.allclose(told.numpy(), slope * others + centre, atol=1e-4)


def _at(dataset, items):
    return {name: values[torch.from_numpy(items)] for name, values in _categories(dataset).items()}


@pytest.fixture(scope="module")
def shown_in_tabs(tmp_path_factory):
    """90 users, each shown six items in one of three tabs; most of what is shown in tab 2 is clicked."""
    folder, random = tmp_path_factory.mktemp("tabs"), np.random.default_rng(0)
    lines = [
        {"user_id": user, "item_id": int(random.integers(9)), "timestamp": 1.7e12 + 1e6 * step + user, "tab": str(tab)}
        | {"click": int(random.random() < (0.8 if tab == 2 else 0.2))}
        for user in range(90)
        for step, tab in enumerate(random.integers(3, size=6))
    ]
    (folder / "shown.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {"user_id": "user_id", "item_id": "item_id", "timestamp": "timestamp"}
    columns |= {"labels": {"click": "click"}, "categories": {"tab": "tab"}}
    source = {"path": str(folder / "shown.jsonl"), "format": "jsonl", "event": "shown", "columns": columns}
    node = {"project": "tabs", "sources": [source], "split": {"kind": "leave_one_out"}}
    return ingest(build(IngestConfig, node, "tabs"), folder / "dataset", each=in_process)


def test_a_context_is_told_what_users_of_other_folds_did_in_it(shown_in_tabs):
    manifest = shown_in_tabs.manifest
    context, size = ColumnSchema(categories=manifest.categories), manifest.num_items + FIRST_ITEM
    config = TargetEncodingConfig(folds=FOLDS, prior=PRIOR)
    encoding = TargetEncoding(config, ColumnSchema(), context, size, manifest.labels)
    encoding.observe(shown_in_tabs, {})
    events = ShardReader(shown_in_tabs, columns=True).rows(np.arange(manifest.num_users))
    train = events.marks == Split.TRAIN
    owner, tabs = np.repeat(events.users, np.diff(events.offsets))[train], events.context.categories["tab"][train]
    clicks = events.labels["click"][train]
    known = np.unique(tabs)

    def shrunk(among):
        return np.array([(clicks[among & (tabs == tab)] - clicks.mean()).sum() for tab in known]) / np.array(
            [(among & (tabs == tab)).sum() + PRIOR for tab in known]
        )

    def told(users):
        values = torch.from_numpy(known).long()
        return encoding(torch.full_like(values, FIRST_ITEM), {}, {"tab": values}, users)[:, -1].numpy()

    whole, nobody = shrunk(train[train]), torch.zeros(len(known)).long()
    encoding.eval()
    slope, centre = np.polyfit(whole, told(nobody), 1)
    assert np.allclose(told(nobody), slope * whole + centre, atol=1e-4)
    encoding.train()
    for fold in range(FOLDS):
        expected = slope * shrunk(owner % FOLDS != fold) + centre
        assert np.allclose(told(nobody + fold), expected, atol=1e-4)


def test_a_context_that_is_not_there_or_came_later_is_like_the_mean(shown_in_tabs):
    manifest = shown_in_tabs.manifest
    context, size = ColumnSchema(categories=manifest.categories), manifest.num_items + FIRST_ITEM
    encoding = TargetEncoding(TargetEncodingConfig(), ColumnSchema(), context, size, manifest.labels).eval()
    encoding.observe(shown_in_tabs, {})
    one = torch.tensor([FIRST_ITEM])
    given = [{}, {"tab": torch.tensor([UNKNOWN])}, {"tab": torch.tensor([10_000])}]
    absent, unknown, later = (encoding(one, {}, tab, torch.tensor([0])) for tab in given)
    assert torch.equal(absent, unknown)
    assert torch.equal(later, unknown)
    assert absent[0, -1].abs() < 0.2, "a tab of training lies a deviation away"


def test_only_training_events_are_summed(contract_dataset):
    owner, _, labels = _events(contract_dataset)
    one_V = np.zeros(len(contract_dataset.catalog.popularity), np.int64)
    found = label_sums(contract_dataset, {"all": one_V}, 3)["all"]
    for at, name in enumerate(contract_dataset.manifest.labels):
        known = np.isfinite(labels[name])
        for fold in range(3):
            mine = labels[name][known & (owner % 3 == fold)].astype(float)
            assert found.counts_KGL[fold, 0, at] == len(mine)
            assert found.sums_KGL[fold, 0, at] == pytest.approx(mine.sum())
            assert found.squares_KGL[fold, 0, at] == pytest.approx((mine**2).sum())


def test_totals_are_those_of_the_tokens_before(contract_dataset):
    manifest, reader = contract_dataset.manifest, ShardReader(contract_dataset, columns=True)
    totals = HistoryTotals(len(manifest.event_names), ("click",))
    totals.observe(contract_dataset)
    batch = make_batch(reader.rows(np.arange(30)), Split.TRAIN, reader.is_history, 20)
    rows_N, columns_N = batch.targets.mask_BC.nonzero(as_tuple=True)
    anchors_N = batch.targets.anchor_BC[rows_N, columns_N]
    found = totals(batch.history, rows_N, anchors_N)
    assert found.shape == (len(rows_N), totals.width)
    for at in range(0, len(rows_N), 7):
        row, upto = int(rows_N[at]), int(anchors_N[at]) + 1
        events = batch.history.events_BL[row, :upto]
        counts = torch.stack([(events == kind).sum() for kind in range(len(manifest.event_names))])
        assert torch.allclose(found[at, : len(counts)], counts / (upto + 1))
        labels = batch.history.labels["click"][row, :upto]
        known = labels[labels.isfinite()]
        expected = ((known - totals.mean_J[0]) / totals.scale_J[0]).sum() / (len(known) + 5)
        assert found[at, len(counts)].item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("live", [True, False])
def test_what_a_prediction_may_know(contract_dataset, live):
    """With `live` an event of the period changes what is said of later ones; without it nothing of the period does."""
    torch.manual_seed(0)
    fields = {"target_encoding": {}, "totals": True}
    settings = {"width": 16, "max_length": 20, "tokens": {"labels": ["click"]}, "fields": fields}
    model = ModelConfig.model_validate(settings)
    network = MultiTask(model, {"click": TASKS["click"].Config()}, contract_dataset.manifest)
    network.observe(contract_dataset)
    judge = Judge.of(contract_dataset, EvaluationConfig(live=live), 20)
    told = collect(judge, network, Split.TRAIN).predictions["click"].predicted_N
    changed = replace(judge, reader=_Flipped(contract_dataset))
    differs = not np.allclose(told, collect(changed, network, Split.TRAIN).predictions["click"].predicted_N)
    assert differs == live


class _Flipped(ShardReader):
    """The same log, but every click of the period was none and the other way round."""

    def __init__(self, dataset):
        super().__init__(dataset, columns=True)

    def rows(self, rows):
        found = super().rows(rows)
        period = found.marks == Split.TRAIN
        clicks = np.where(period, 1 - found.labels["click"], found.labels["click"])
        return replace(found, labels={**found.labels, "click": clicks})
