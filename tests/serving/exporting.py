"""Small runs made in this process, and what they answer: for the tests of exports."""

import numpy as np
import torch

from raysys.config import RunConfig
from raysys.configfile import build
from raysys.data.batches import make_queries
from raysys.data.reader import history_rows
from raysys.data.schema import Split
from raysys.evaluation.ranking import ModelScorer
from raysys.model.backbones import BACKBONES
from raysys.training.fit import train


def trained(dataset, output, kind, model=None, tasks=None):
    """Train a run of a backbone for one epoch."""
    part = BACKBONES[kind]
    size = {"num_blocks": 1} if "num_blocks" in part.Config.model_fields else {}
    retrieving = {"masked_item": {}} if part.bidirectional else {"next_item": {}}
    node = {
        "project": "exports",
        "dataset": str(dataset.path),
        "root": str(output),
        "model": {"width": 16, "max_length": 12, "backbone": {"kind": kind, **size}, **(model or {})},
        "tasks": {**retrieving, **(tasks or {})},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 5},
        "training": {"epochs": 1, "batch_size": 32, "threads": 1},
        "evaluation": {"k": [10], "resamples": 20},
    }
    return train(build(RunConfig, node, "test"), output=str(output / kind))


def asked(reader, users, split=Split.TEST):
    """The questions of some users of a dataset, as an evaluation on the test split puts them, or serving on none."""
    return make_queries(reader.rows(users), split, reader.is_history, 12)


def visitors(run, histories):
    """The questions of people whom nobody knows, by the ids of what they had."""
    rows = history_rows([run.vocabulary.lookup(one) for one in histories])
    return make_queries(rows, Split.NONE, np.array([True]), 12)


def scores(run, queries):
    """Every user's score of every item [B, V - 2], by the run's own way to answer."""
    scorer = ModelScorer(run.network)
    with torch.inference_mode():
        return scorer.block(scorer.ask(queries), 0, scorer.num_items)
