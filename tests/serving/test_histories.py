"""What is known of users, and that the features of a request are those of training and evaluation."""

import numpy as np
import pytest
import torch

from raysys.data.batches import make_batch, make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.ranking import Candidates
from raysys.evaluation.task_scores import task_scores
from serving.users import Histories

pytestmark = pytest.mark.cluster  # the run that is served is made by the real ingestion


@pytest.fixture(scope="module")
def dataset(tiny_run):
    return Dataset.open(tiny_run.record.dataset)


@pytest.fixture(scope="module")
def histories(tiny_run):
    return Histories.open(tiny_run.record.dataset, tiny_run.record.dataset_fingerprint)


def test_every_user_is_found_with_all_events(dataset, histories):
    reader = ShardReader(dataset)
    rows = np.arange(dataset.manifest.num_users)
    assert len(histories) == len(rows) == 300
    events = 0
    for row, user_id in zip(rows, reader.user_ids(rows).to_pylist(), strict=True):
        found = histories.of(user_id)
        assert found is not None
        np.testing.assert_array_equal(found.items, reader.rows(rows[row : row + 1]).items)
        events += len(found.items)
    assert events == dataset.manifest.num_events


@pytest.mark.parametrize("user_id", ["", "u", "u300", "U1", "u1 ", "zz", "ü", "\ud800", "\U0010ffff", "u1\x00"])
def test_nobody_else_is_found(histories, user_id):
    assert histories.of(user_id) is None


def test_another_dataset_is_refused(dataset):
    with pytest.raises(UserError, match="fingerprints differ"):
        Histories.open(dataset.path, "other")


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
            found = task_scores(network, queries, Candidates(items_BC, torch.zeros(1, 1)), {})
        torch.testing.assert_close(found["rating"][0, 0], expected[0, 0])
