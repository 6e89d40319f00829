"""Runs an evaluation: collects what is found for each user of a split in one pass, and estimates from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from raysys.data.batches import Queries, make_queries
from raysys.data.reader import UserRows
from raysys.data.schema import UNKNOWN, Split
from raysys.evaluation.calibration.of_tasks import Calibrators, calibrated, remarks
from raysys.evaluation.judge import Judge
from raysys.evaluation.labels import demand_so_far, predict_items, predict_pairs, predict_users, training_mean
from raysys.evaluation.outcomes import Outcomes, no_outcomes
from raysys.evaluation.pointwise import Predictions, cheap_metrics, join
from raysys.evaluation.protocol import PROTOCOL, Estimate, EvalReport, EvaluationConfig, Gates
from raysys.evaluation.ranking import ModelScorer, Scorer, ranking_metrics, recommend
from raysys.evaluation.summary import POPULARITY, estimate, estimate_slices, with_beyond
from raysys.tasks.multitask import MultiTask

Questions = Callable[[UserRows, Split], UserRows]


@dataclass(frozen=True)
class Evaluation:
    """A report, and the outcomes that it was made from."""

    report: EvalReport
    outcomes: Outcomes


@torch.inference_mode()
def collect(judge: Judge, network: MultiTask, split: Split, rank: int = 0, world_size: int = 1) -> Outcomes:
    """Evaluate every task of a model on a rank's share of the users of a split, and the first rank on the items."""
    network.eval()
    rows = judge.rows(split)[rank::world_size]
    ranked, name = no_outcomes(), next(iter(network.retrieving()), "")
    if name:
        ranked = rank_users(judge, {name: ModelScorer(network)}, split, rows, name)[name]
    of_users = predict_users(judge, network, split, judge.rows_with_history(split)[rank::world_size])
    return replace(
        ranked,
        predictions=predict_pairs(judge, network, split, rows)[0] | of_users,
        items=predict_items(judge, network, split) if rank == 0 else {},
        further=_further(judge, network, split, rows),
    )


def _further(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray) -> dict[str, Outcomes]:
    """Let the retrieving tasks behind the first answer their own questions."""
    tasks, found = network.named_tasks(), {}
    for name in network.retrieving()[1:]:
        asks: Questions = tasks[name].questions  # type: ignore[assignment]
        found[name] = rank_users(judge, {name: ModelScorer(network, name)}, split, rows, name, asks)[name]
    return found


@torch.inference_mode()
def rank_users(
    judge: Judge,
    scorers: Mapping[str, Scorer],
    split: Split,
    rows: np.ndarray,
    prefix: str,
    questions: Questions | None = None,
) -> dict[str, Outcomes]:
    """Rank the catalogue for users with held-out items by each scorer, in one pass; metrics are named PREFIX.NAME.

    `questions` marks events anew where a task does not ask for everything of the split.
    """
    parts: dict[str, list[Outcomes]] = {name: [no_outcomes()] for name in scorers}
    for batch in judge.parts(rows[np.argsort(judge.lengths(split)[rows], kind="stable")]):  # little padding
        events = judge.reader.rows(batch)
        events = events if questions is None else questions(events, split)
        queries = make_queries(events, split, judge.reader.is_history, judge.max_length)
        asked = queries.to(judge.device)
        lists = {
            name: recommend(scorer, asked, max(judge.config.k), judge.config.exclude_seen).items_BK.cpu().numpy()
            for name, scorer in scorers.items()
        }
        for name, found in outcomes_of(judge, queries, batch, lists).items():
            parts[name].append(found)
    return {name: measured(merge(found), judge.config, prefix) for name, found in parts.items()}


def outcomes_of(
    judge: Judge, queries: Queries, rows: np.ndarray, lists: Mapping[str, np.ndarray]
) -> dict[str, Outcomes]:
    """Return the outcomes of lists [B, K] by name for the users of some queries that have held-out items."""
    seen_rows, seen_items = queries.seen_rows_N.numpy(), queries.seen_items_N.numpy()
    known = seen_items != UNKNOWN
    known_B = np.bincount(seen_rows[known], minlength=len(rows))
    events_B = np.bincount(seen_rows[known], judge.facts.events_V[seen_items[known]], minlength=len(rows))
    profile_B = np.divide(events_B, known_B, out=np.full(len(rows), np.nan), where=known_B > 0)
    relevant_rows, relevant_items = queries.relevant_rows_N.numpy(), queries.relevant_items_N.numpy()
    asked_B = np.isin(np.arange(len(rows)), relevant_rows)
    shared = (rows[asked_B], known_B[asked_B], profile_B[asked_B], rows[relevant_rows], relevant_items)
    return {name: Outcomes(shared[0], items_BK[asked_B], *shared[1:]) for name, items_BK in lists.items()}


def measured(outcomes: Outcomes, config: EvaluationConfig, prefix: str) -> Outcomes:
    """Return outcomes with the ranking metrics of every user."""
    metrics = ranking_metrics(outcomes.items_UK, outcomes.relevant_rows, outcomes.relevant_items_N, config.k)
    return replace(outcomes, per_user={f"{prefix}.{name}": values for name, values in metrics.items()})


def merge(parts: Sequence[Outcomes]) -> Outcomes:
    """Join the outcomes of disjoint users, in the order of users, so that sums do not depend on the parts."""
    users_U = np.concatenate([part.users_U for part in parts])
    order_U = np.argsort(users_U, kind="stable")
    width = max(part.items_UK.shape[1] for part in parts)
    lists_UK = np.concatenate([np.pad(p.items_UK, ((0, 0), (0, width - p.items_UK.shape[1]))) for p in parts])
    relevant_N = np.concatenate([part.relevant_users_N for part in parts])
    order_N = np.argsort(relevant_N, kind="stable")
    names = next((part.per_user for part in parts if part.per_user), {})
    further = next((part.further for part in parts if part.further), {})
    return Outcomes(
        users_U[order_U],
        lists_UK[order_U],
        np.concatenate([part.known_U for part in parts])[order_U],
        np.concatenate([part.profile_U for part in parts])[order_U],
        relevant_N[order_N],
        np.concatenate([part.relevant_items_N for part in parts])[order_N],
        {name: np.concatenate([p.per_user[name] for p in parts if p.per_user])[order_U] for name in names},
        _joined([part.predictions for part in parts]),
        next((part.items for part in parts if part.items), {}),
        {name: merge([part.further[name] for part in parts]) for name in further},
    )


def _joined(found: Sequence[Mapping[str, Predictions]]) -> dict[str, Predictions]:
    """Join the predictions of every task; a rank may have none of it."""
    names = dict.fromkeys(name for tables in found for name in tables)
    return {name: join([tables[name] for tables in found if name in tables]) for name in names}


def summarise(outcomes: Outcomes) -> dict[str, float]:
    """Return means of the metrics that cost little, without intervals: for validation inside a run."""
    lists = [outcomes, *outcomes.further.values()]
    per_user = {name: values for one in lists for name, values in one.per_user.items() if len(values)}
    metrics = {name: float(np.nanmean(values)) for name, values in per_user.items()}
    for task, predictions in {**outcomes.predictions, **outcomes.items}.items():
        if len(predictions.labels_N):
            metrics |= {f"{task}.{name}": value for name, value in cheap_metrics(predictions).items()}
    return metrics


def evaluate(judge: Judge, network: MultiTask, split: Split, calibrators: Calibrators | None = None) -> EvalReport:
    """Evaluate a model on a split, beside the baselines (lists) and the training mean (labels)."""
    return examine(judge, network, split, calibrators).report


@torch.inference_mode()
def examine(judge: Judge, network: MultiTask, split: Split, calibrators: Calibrators | None = None) -> Evaluation:
    """Evaluate a model on a split, and keep what was found for each user, in everything that has a value per user.

    Probabilities are calibrated on the test split alone: on validation, where calibrations are fitted, they would look
    better than they are.
    """
    network.eval()
    rows, name = judge.rows(split), next(iter(network.retrieving()), "")
    ranked: dict[str, Outcomes] = {}
    if name:
        scorers = {"": ModelScorer(network), **judge.baselines}
        ranked = with_beyond(judge.facts, judge.config, rank_users(judge, scorers, split, rows, name))
    fitted = calibrators if calibrators and split > Split.VALID else {}
    raw, gates = predict_pairs(judge, network, split, rows)
    raw |= predict_users(judge, network, split, judge.rows_with_history(split))
    predictions, items = calibrated(raw, fitted), predict_items(judge, network, split)
    further = _further(judge, network, split, rows)
    outcomes = replace(ranked.pop("", no_outcomes()), predictions=predictions, items=items, further=further)
    found = estimate(judge.facts, judge.config, {"": outcomes, **ranked})
    baselines = {POPULARITY: {}, **{name: found[name] for name in ranked}}
    constants = {
        POPULARITY: replace(no_outcomes(), items=demand_so_far(judge, items)),
        "training_mean": replace(no_outcomes(), predictions=training_mean(judge, network, predictions)),
    }
    for kind, constant in constants.items():
        if constant.items or constant.predictions:
            baselines[kind] = baselines.get(kind, {}) | estimate(judge.facts, judge.config, {"": constant})[""]
    slices = estimate_slices(judge.facts, judge.config, outcomes)
    notes = remarks(predictions, fitted)
    return Evaluation(make_report(judge, split, found[""], baselines, slices, notes, gates), outcomes)


def make_report(
    judge: Judge,
    split: Split,
    metrics: Mapping[str, Estimate],
    baselines: Mapping[str, Mapping[str, Estimate]],
    slices: Mapping[str, Mapping[str, Estimate]],
    notes: tuple[str, ...] = (),
    gates: Gates | None = None,
) -> EvalReport:
    """Put a report together, with how many users of how many were evaluated."""
    return EvalReport(
        split=split.name.lower(),
        protocol=PROTOCOL if judge.config.exclude_seen else PROTOCOL.replace("left out", "ranked too"),
        metrics=metrics,
        baselines=baselines,
        slices=slices,
        num_users=len(judge.rows(split)),
        num_users_of_split=len(judge.dataset.rows_with_targets(split)),
        notes=notes,
        gates=gates or {},
    )
