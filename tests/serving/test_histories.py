"""What is known of users, and that the features of a request are those of training and evaluation."""

import asyncio

import numpy as np
import pytest
import torch

from raysys.data.batches import make_batch, make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.pair_scores import task_scores
from serving.answers.encoding import StateEncoder
from serving.config import ServeConfig
from serving.stores import make_store
from serving.users.seeding import seed
from serving.users.state import NOBODY


@pytest.fixture(scope="module")
def dataset(tiny_run):
    return Dataset.open(tiny_run.record.dataset)


@pytest.fixture(scope="module")
def store(tiny_run, tmp_path_factory):
    config = ServeConfig().with_places(str(tmp_path_factory.mktemp("histories")), "tests")
    seed(tiny_run, config)
    return make_store(config.store)


def test_every_user_is_found_with_all_events_and_encoded_as_in_training(tiny_run, dataset, store):
    reader, encoder = ShardReader(dataset, columns=True), StateEncoder(tiny_run)
    rows = np.arange(dataset.manifest.num_users)
    expected = reader.rows(rows)
    found = encoder.rows(asyncio.run(store.read(reader.user_ids(rows).to_pylist())))
    named = expected.items >= FIRST_ITEM  # of other items the dataset keeps no name
    np.testing.assert_array_equal(found.items, expected.items[named])
    np.testing.assert_array_equal(found.times, expected.times[named])
    np.testing.assert_array_equal(found.events, expected.events[named])
    np.testing.assert_array_equal(found.users, expected.users)
    for name, values in expected.labels.items():
        np.testing.assert_array_equal(found.labels[name], values[named])


@pytest.mark.parametrize("user_id", ["", "u", "u300", "U1", "u1 ", "zz", "ü", "\U0010ffff", "u1\x00"])
def test_nobody_else_is_found(store, user_id):
    assert asyncio.run(store.read([user_id])) == [NOBODY]


def test_task_scores_are_those_of_evaluation(tiny_run, dataset):
    network, reader = tiny_run.network, ShardReader(dataset)
    length = tiny_run.config.model.max_length
    for row in dataset.rows_with_targets(Split.TEST)[:20]:
        events = reader.rows(np.array([row]))
        batch = make_batch(events, Split.TEST, reader.is_history, length)
        queries = make_queries(events, Split.TEST, reader.is_history, length)
        items_BC = batch.targets.items_BC[:, :1]
        with torch.inference_mode():
            expected = network.named_tasks()["rating"].logits(network.recommender(batch.history), batch.targets)
            encoded = network.recommender(queries.history)
            found = task_scores(network, encoded, queries.anchor_B, items_BC, {})
        torch.testing.assert_close(found["rating"][0, 0], expected[0, 0])
