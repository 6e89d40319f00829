"""Fields of users, items and events: buckets of numbers, unknown values, several values, values of later days."""

import numpy as np
import pytest
import torch

from raysys.data.batches import Columns
from raysys.data.columns import ColumnSchema
from raysys.data.quantiles import training_quantiles
from raysys.data.reader import ShardReader
from raysys.data.schema import PAD, UNKNOWN, Split
from raysys.model.fields import NUM_QUANTILES, FieldEncoder

SCHEMA = ColumnSchema(numbers=("price",), categories={"device": 5, "tags": 6}, lists={"tags": 3})


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = FieldEncoder(SCHEMA, 4)
    encoder.observe({"price": np.arange(1, NUM_QUANTILES + 1, dtype=np.float32)})
    return encoder


def _columns(prices, devices=(2,), tags=((2, 3, PAD),)):
    return Columns(
        {"price": torch.tensor(prices)},
        {"device": torch.tensor(devices), "tags": torch.tensor(tags)},
    )


def _field(encoder, number, columns, rows=1):
    return encoder(columns, (rows,))[:, number]


def test_numbers_of_a_bucket_are_the_same_and_unknown_is_its_own(encoder):
    prices = [-5.0, 0.5, 1.5, 1.9, 100.0, 1e9, float("nan")]
    columns = _columns(prices, [2] * 7, [(2, PAD, PAD)] * 7)
    low, lower, one, still_one, high, higher, unknown = _field(encoder, 0, columns, 7)
    assert torch.equal(low, lower)
    assert torch.equal(one, still_one)
    assert torch.equal(high, higher)
    assert len({tuple(v.tolist()) for v in (low, one, high, unknown)}) == 4


def test_several_values_are_averaged_without_what_fills_up(encoder):
    two = _field(encoder, 2, _columns([1.0], tags=((2, 3, PAD),)))
    alone = [_field(encoder, 2, _columns([1.0], tags=((tag, PAD, PAD),))) for tag in (2, 3)]
    assert torch.allclose(two, (alone[0] + alone[1]) / 2)
    wider = _field(encoder, 2, _columns([1.0], tags=((2, 3, PAD, PAD, PAD),)))
    assert torch.equal(two, wider)


def test_values_of_later_days_are_unknown(encoder):
    later = encoder(_columns([1.0], devices=(17,), tags=((99, PAD, PAD),)), (1,))
    unknown = encoder(_columns([1.0], devices=(UNKNOWN,), tags=((UNKNOWN, PAD, PAD),)), (1,))
    assert torch.equal(later, unknown)


def test_columns_that_nobody_brings_are_unknown(encoder):
    given = _columns([float("nan")], devices=(UNKNOWN,), tags=((UNKNOWN, PAD, PAD),))
    assert torch.equal(encoder(Columns(), (1,)), encoder(given, (1,)))
    assert encoder(Columns(), (2, 3)).shape == (2, 3, 3, 4)


def test_quantiles_are_those_of_training_events(contract_dataset):
    found = training_quantiles(contract_dataset, 3)
    reader = ShardReader(contract_dataset, columns=True)
    events = reader.rows(np.arange(contract_dataset.manifest.num_users))
    train = events.marks == Split.TRAIN
    expected = np.quantile(events.context.numbers["duration"][train], [0.25, 0.5, 0.75])
    assert np.allclose(found.context["duration"], expected)
    assert np.allclose(found.labels["watch_time"], np.quantile(events.labels["watch_time"][train], [0.25, 0.5, 0.75]))
