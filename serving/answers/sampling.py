"""Queries to measure an index with: states of users of the run's dataset, or item vectors where it is gone."""

import numpy as np
import torch
from torch import Tensor

from raysys.data.batches import make_queries
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.ranking import ModelScorer
from raysys.runs import Run

_QUERIES = 256


def sample_queries(run: Run, scorer: ModelScorer) -> Tensor:
    """Return at most 256 queries [B, D], the same every time."""
    generator = np.random.default_rng(0)
    try:
        dataset = Dataset.open(run.record.dataset)
        reader = ShardReader(dataset, columns=True)
    except UserError:
        reader = None
    if reader is None or dataset.manifest.fingerprint != run.manifest.fingerprint:
        count = min(_QUERIES, scorer.num_items)
        chosen = torch.from_numpy(generator.choice(scorer.num_items, count, replace=False))
        return scorer.table_VD[chosen].detach()
    count = min(_QUERIES, dataset.manifest.num_users)
    rows = reader.rows(np.sort(generator.choice(dataset.manifest.num_users, count, replace=False)))
    return scorer.ask(make_queries(rows, Split.NONE, reader.is_history, run.config.model.max_length)).detach()
