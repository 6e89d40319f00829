"""How long a model takes to answer one user: a cost that a search weighs against quality."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from raysys.data.batches import Queries, make_queries
from raysys.data.schema import Split
from raysys.evaluation.judge import Judge
from raysys.evaluation.pair_scores import scored_lists
from raysys.evaluation.ranking import ModelScorer
from raysys.tasks.multitask import MultiTask

_USERS, _ROUNDS, _SEED = 30, 5, 0


def answer_latency(judge: Judge, network: MultiTask) -> float:
    """Return the median milliseconds that one user's list takes on one thread, with what the tasks say of its items.

    Asked are a fixed sample of the validation users, one at a time: the history is encoded, the whole catalogue ranked.
    The table of items is made before, as a service does. A first round only warms up.

    Raises:
        UserError: no task retrieves.
    """
    network.eval()
    with _one_thread(), torch.inference_mode():
        scorer, questions = ModelScorer(network), _questions(judge)
        rounds = [[_seconds(judge, scorer, asked) for asked in questions] for _ in range(_ROUNDS + 1)]
    of_users = [statistics.median(repeated) for repeated in zip(*rounds[1:], strict=True)]
    return 1000 * statistics.median(of_users)


def _questions(judge: Judge) -> list[Queries]:
    rows = judge.rows(Split.VALID)
    chosen = np.sort(np.random.default_rng(_SEED).permutation(rows)[:_USERS])
    ends = (judge.reader.rows(chosen[at : at + 1]) for at in range(len(chosen)))
    return [make_queries(end, Split.VALID, judge.reader.is_history, judge.max_length).to(judge.device) for end in ends]


def _seconds(judge: Judge, scorer: ModelScorer, asked: Queries) -> float:
    started = time.perf_counter()
    scored_lists(scorer, asked, max(judge.config.k), judge.config.exclude_seen, {})
    return time.perf_counter() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
