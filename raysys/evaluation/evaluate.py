"""Runs an evaluation: collects what is found for each user of a split in one pass, and estimates from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from raysys.component import kind_of
from raysys.data.batches import Batch, Queries, Targets, make_batch, make_queries
from raysys.data.dataset import Dataset
from raysys.data.hashing import hash_ids
from raysys.data.reader import ShardReader, UserRows
from raysys.data.schema import UNKNOWN, Split
from raysys.evaluation.baselines import BASELINES
from raysys.evaluation.baselines.popularity import Popularity
from raysys.evaluation.beyond import ItemFacts
from raysys.evaluation.calibration.of_tasks import Calibrators, calibrated, pair_predictions, remarks
from raysys.evaluation.gates import GateMeter
from raysys.evaluation.outcomes import Outcomes, no_outcomes
from raysys.evaluation.pointwise import Predictions, cheap_metrics, join
from raysys.evaluation.protocol import PROTOCOL, Estimate, EvalReport, EvaluationConfig, Gates
from raysys.evaluation.ranking import ModelScorer, Scorer, ranking_metrics, recommend
from raysys.evaluation.summary import POPULARITY, estimate, estimate_slices, with_beyond
from raysys.tasks.multitask import MultiTask
from raysys.tasks.task import Retrieves, ScoresPairs

_USERS_AT_ONCE = 1 << 16  # whose labels are in memory while they are counted


@dataclass(frozen=True)
class Judge:
    """Everything an evaluation needs beside the model."""

    dataset: Dataset
    reader: ShardReader
    config: EvaluationConfig
    max_length: int
    device: torch.device

    @staticmethod
    def of(dataset: Dataset, config: EvaluationConfig, max_length: int, device: torch.device | None = None) -> "Judge":
        """Open the shards of a dataset for evaluation."""
        return Judge(dataset, ShardReader(dataset, columns=True), config, max_length, device or torch.device("cpu"))

    def rows(self, split: Split) -> np.ndarray:
        """Return the rows to evaluate [U] i64, ascending: users of the split, at most `max_users` of them.

        A sample is chosen by a hash of the user ids alone, so it is the same for every model, epoch and rank, and part
        of any larger one.
        """
        rows = self.dataset.rows_with_targets(split)
        if self.config.max_users is None or len(rows) <= self.config.max_users:
            return rows
        order = np.argsort(hash_ids(self.reader.user_ids(rows)), kind="stable")
        return np.sort(rows[order[: self.config.max_users]])

    def lengths(self, split: Split) -> np.ndarray:
        """Return how many training and, before the test split, validation tokens every user of the dataset has [U]."""
        rows = self.dataset.rows
        train_U: np.ndarray = rows["train_tokens"].to_numpy()
        return train_U + rows["valid_tokens"].to_numpy() if split > Split.VALID else train_U

    @cached_property
    def baselines(self) -> dict[str, Scorer]:
        """The baselines of the config, fitted once; popularity first."""
        configs = {POPULARITY: Popularity.Config(), **self.config.baselines}
        fitted = {name: BASELINES[kind_of(config)](config) for name, config in configs.items()}
        return {name: baseline.fit(self.dataset, self.reader) for name, baseline in fitted.items()}

    @cached_property
    def facts(self) -> ItemFacts:
        """What the catalog knows of every item."""
        return ItemFacts.of(self.dataset.catalog)


@dataclass(frozen=True)
class Evaluation:
    """A report, and the outcomes that it was made from."""

    report: EvalReport
    outcomes: Outcomes


@torch.inference_mode()
def collect(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray | None = None) -> Outcomes:
    """Evaluate every task of a model on the users of a split (or on the given rows, a rank's share)."""
    network.eval()
    rows = judge.rows(split) if rows is None else rows
    name = retrieving_task(network)
    ranked = rank_users(judge, {name: ModelScorer(network)}, split, rows, name)[name] if name else no_outcomes()
    return replace(ranked, predictions=_predict(judge, network, split, rows)[0])


@torch.inference_mode()
def rank_users(
    judge: Judge, scorers: Mapping[str, Scorer], split: Split, rows: np.ndarray, prefix: str
) -> dict[str, Outcomes]:
    """Rank the catalogue for users with held-out items by each scorer, in one pass; metrics are named PREFIX.NAME."""
    parts: dict[str, list[Outcomes]] = {name: [no_outcomes()] for name in scorers}
    for batch in _batches(judge, rows[np.argsort(judge.lengths(split)[rows], kind="stable")]):  # little padding
        queries = make_queries(judge.reader.rows(batch), split, judge.reader.is_history, judge.max_length)
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
    found = [part.predictions for part in parts if part.predictions]  # a rank without users has none
    return Outcomes(
        users_U[order_U],
        lists_UK[order_U],
        np.concatenate([part.known_U for part in parts])[order_U],
        np.concatenate([part.profile_U for part in parts])[order_U],
        relevant_N[order_N],
        np.concatenate([part.relevant_items_N for part in parts])[order_N],
        {name: np.concatenate([p.per_user[name] for p in parts if p.per_user])[order_U] for name in names},
        {name: join([tables[name] for tables in found]) for name in (found[0] if found else ())},
    )


def summarise(outcomes: Outcomes) -> dict[str, float]:
    """Return means of the metrics that cost little, without intervals: for validation inside a run."""
    metrics = {name: float(np.nanmean(values)) for name, values in outcomes.per_user.items() if len(values)}
    for task, predictions in outcomes.predictions.items():
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
    rows, name = judge.rows(split), retrieving_task(network)
    ranked: dict[str, Outcomes] = {}
    if name:
        scorers = {"": ModelScorer(network), **judge.baselines}
        ranked = with_beyond(judge.facts, judge.config, rank_users(judge, scorers, split, rows, name))
    fitted = calibrators if calibrators and split > Split.VALID else {}
    raw, gates = _predict(judge, network, split, rows)
    predictions = calibrated(raw, fitted)
    outcomes = replace(ranked.pop("", no_outcomes()), predictions=predictions)
    constant = replace(no_outcomes(), predictions=_training_mean(judge, network, predictions))
    found = estimate(judge.facts, judge.config, {"": outcomes, **ranked})
    baselines = {POPULARITY: {}, **{name: found[name] for name in ranked}}
    if constant.predictions:
        baselines["training_mean"] = estimate(judge.facts, judge.config, {"": constant})[""]
    slices = estimate_slices(judge.facts, judge.config, outcomes)
    notes = remarks(predictions, fitted)
    return Evaluation(make_report(judge, split, found[""], baselines, slices, notes, gates), outcomes)


def retrieving_task(network: MultiTask) -> str:
    """Return the name of the first task that retrieves items; empty where none does."""
    return next((name for name, task in network.named_tasks().items() if isinstance(task, Retrieves)), "")


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


def _batches(judge: Judge, rows: np.ndarray) -> list[np.ndarray]:
    size = judge.config.batch_size
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _predict(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray) -> tuple[dict[str, Predictions], Gates]:
    scorers, gates = network.pair_scorers(), GateMeter(network)
    found: dict[str, list[Predictions]] = {name: [] for name in scorers}
    for batch in _target_batches(judge, split, rows) if scorers else ():
        encoded = network.recommender(batch.history)
        owners_BC = batch.history.users_B.unsqueeze(1).expand_as(batch.targets.items_BC)
        for name, predicted_BC in pair_predictions(network, encoded, batch.targets, {}).items():
            task = scorers[name]
            labels_BC = task.truth(batch.targets)
            known_BC = labels_BC.isfinite()
            predicted, labels, owners = (t[known_BC].cpu().numpy() for t in (predicted_BC, labels_BC, owners_BC))
            found[name].append(Predictions(predicted, labels, owners, task.positive_from, task.predicts))
        gates.add(encoded, batch.targets)
    return {name: join(parts) for name, parts in found.items() if parts}, gates.means()


def _target_batches(judge: Judge, split: Split, rows: np.ndarray) -> Iterator[Batch]:
    """Yield every target of the split once, users with long periods through several windows."""
    for part in _batches(judge, rows):
        events, back = judge.reader.rows(part), 0
        while True:
            batch = make_batch(events, split, judge.reader.is_history, judge.max_length, windows_back=back, live=judge.config.live)
            if back and not batch.targets.mask_BC.any():
                break
            yield batch.to(judge.device)
            back += 1


def _training_mean(judge: Judge, network: MultiTask, predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Return for every pair the mean of what is true of training events, or the share of them that are positive."""
    means, constants = _means(judge, network.pair_scorers()) if predictions else {}, {}
    for name, found in predictions.items():
        predicted_N = np.full(len(found.labels_N), means[name], np.float32)
        constants[name] = replace(found, predicted_N=predicted_N, raw_N=None, is_constant=True)
    return constants


def _means(judge: Judge, tasks: Mapping[str, ScoresPairs]) -> dict[str, float]:
    sums, counts = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0)
    for start in range(0, judge.dataset.manifest.num_users, _USERS_AT_ONCE):
        stop = min(start + _USERS_AT_ONCE, judge.dataset.manifest.num_users)
        targets = _all_at_once(judge.reader.rows(np.arange(start, stop)), judge.device)
        for name, task in tasks.items():
            truth_BC = task.truth(targets)
            known_N = truth_BC[truth_BC.isfinite()].double()
            if task.predicts == "probability":
                assert task.positive_from is not None
                known_N = known_N >= task.positive_from
            sums[name] += float(known_N.sum())
            counts[name] += len(known_N)
    return {name: sums[name] / max(counts[name], 1) for name in tasks}


def _all_at_once(rows: UserRows, device: torch.device) -> Targets:
    """Return the training events of some users as targets of one row [1, E]: what they are, without a history."""
    items, events, times, train = (
        torch.from_numpy(values).to(device).unsqueeze(0)
        for values in (rows.items.astype(np.int64), rows.events.astype(np.int64), rows.times, rows.marks == Split.TRAIN)
    )
    labels = {name: torch.from_numpy(values).to(device).unsqueeze(0) for name, values in rows.labels.items()}
    return Targets(items, torch.full_like(items, -1), events, times, train, labels)
