"""Runs an evaluation: collects per-user outcomes over a split, merges those of several ranks, and estimates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raysys.data.batches import Batch, ShardReader, make_batch, make_queries
from raysys.data.dataset import Dataset
from raysys.data.schema import Split
from raysys.evaluation.pointwise import Predictions, pointwise_estimates, pointwise_metrics
from raysys.evaluation.protocol import PROTOCOL, Estimate, EvalReport, EvaluationConfig, bootstrap, interval
from raysys.evaluation.ranking import ModelScorer, PopularityScorer, Scorer, coverage, ranking_metrics, recommend
from raysys.tasks.multitask import MultiTask


@dataclass(frozen=True)
class Outcomes:
    """What was found for some users, before any mean is taken."""

    users_U: np.ndarray  # row of the dataset
    items_UK: np.ndarray  # ranked lists
    ranking: dict[str, np.ndarray]  # "next_item.ndcg@10" -> [U]
    predictions: dict[str, Predictions]  # task -> labelled pairs


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
        return Judge(dataset, ShardReader(dataset), config, max_length, device or torch.device("cpu"))


@torch.inference_mode()
def collect(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray | None = None) -> Outcomes:
    """Evaluate every task of a model on the users of a split (or on the given rows, a rank's share)."""
    network.eval()
    rows = judge.dataset.rows_with_targets(split) if rows is None else rows
    name = next((name for name, task in network.named_tasks().items() if hasattr(task, "query")), None)
    ranked = rank_users(judge, ModelScorer(network), split, rows, f"{name}.") if name else _nothing(rows)
    return Outcomes(ranked.users_U, ranked.items_UK, ranked.ranking, _predict(judge, network, split, rows))


def rank_users(judge: Judge, scorer: Scorer, split: Split, rows: np.ndarray, prefix: str) -> Outcomes:
    """Rank the catalogue for users with held-out items, and measure the lists."""
    depth = max(judge.config.k)
    parts: list[Outcomes] = []
    for batch in _batches(judge, rows):
        queries = make_queries(judge.reader.rows(batch), split, judge.reader.is_history, judge.max_length)
        found = recommend(scorer, queries.to(judge.device), depth, judge.config.exclude_seen)
        items_UK = found.items_BK.cpu().numpy()
        has_target = np.isin(np.arange(len(batch)), queries.relevant_rows_N.numpy())
        metrics = ranking_metrics(
            items_UK, queries.relevant_rows_N.numpy(), queries.relevant_items_N.numpy(), judge.config.k
        )
        kept = {prefix + name: values[has_target] for name, values in metrics.items()}
        parts.append(Outcomes(batch[has_target], items_UK[has_target], kept, {}))
    return merge(parts) if parts else _nothing(rows)


def merge(parts: Sequence[Outcomes]) -> Outcomes:
    """Join the outcomes of batches or ranks, in the order of users, so that sums do not depend on the parts."""
    users = np.concatenate([part.users_U for part in parts])
    order = np.argsort(users, kind="stable")
    width = max(part.items_UK.shape[1] for part in parts)
    lists = np.concatenate([np.pad(p.items_UK, ((0, 0), (0, width - p.items_UK.shape[1]))) for p in parts])
    names = next((part.ranking for part in parts if part.ranking), {})
    ranking = {name: np.concatenate([p.ranking[name] for p in parts if p.ranking])[order] for name in names}
    found = [part.predictions for part in parts if part.predictions]  # a rank without users has none
    predictions = {name: _join([tables[name] for tables in found]) for name in (found[0] if found else ())}
    return Outcomes(users[order], lists[order], ranking, predictions)


def summarise(outcomes: Outcomes) -> dict[str, float]:
    """Return every metric's mean, without intervals: for validation inside a run."""
    metrics = {name: float(values.mean()) for name, values in outcomes.ranking.items() if len(values)}
    for task, predictions in outcomes.predictions.items():
        if len(predictions.labels_N):
            metrics |= {f"{task}.{name}": value for name, value in pointwise_metrics(predictions).items()}
    return metrics


def estimate(outcomes: Outcomes, judge: Judge) -> dict[str, Estimate]:
    """Return every metric with its interval, and catalogue coverage at each depth."""
    metrics: dict[str, Estimate] = {}
    if outcomes.ranking and len(outcomes.users_U):
        values_MU = np.stack(list(outcomes.ranking.values()))
        samples_RM = bootstrap(values_MU, judge.config)
        for at, name in enumerate(outcomes.ranking):
            low, high = interval(samples_RM[:, at], judge.config.confidence)
            metrics[name] = Estimate(float(values_MU[at].mean()), low, high, values_MU.shape[1])
        prefix = next(iter(outcomes.ranking)).rpartition(".")[0]
        for k in judge.config.k:
            share = coverage(outcomes.items_UK, k, judge.dataset.manifest.num_items)
            metrics[f"{prefix}.coverage@{k}"] = Estimate(share, share, share, values_MU.shape[1])
    for task, predictions in outcomes.predictions.items():
        if len(predictions.labels_N):
            found = pointwise_estimates(predictions, judge.config)
            metrics |= {f"{task}.{name}": value for name, value in found.items()}
    return metrics


def evaluate(judge: Judge, network: MultiTask, split: Split) -> EvalReport:
    """Evaluate a model on a split, beside popularity (ranking) and the training mean (labels)."""
    rows = judge.dataset.rows_with_targets(split)
    outcomes = collect(judge, network, split, rows)
    prefix = next((name.rpartition(".")[0] + "." for name in outcomes.ranking), "")
    scorer = PopularityScorer(judge.dataset.catalog.popularity)
    baseline = rank_users(judge, scorer, split, rows, prefix) if prefix else _nothing(rows)
    constant = {
        name: Predictions(
            np.full_like(found.labels_N, judge.dataset.manifest.label_means[network.tasks[name].label]),  # type: ignore[index]
            found.labels_N,
            found.users_N,
            None,
        )
        for name, found in outcomes.predictions.items()
    }
    plain = Outcomes(baseline.users_U, baseline.items_UK, baseline.ranking, constant)
    return EvalReport(
        split=split.name.lower(),
        protocol=PROTOCOL if judge.config.exclude_seen else PROTOCOL.replace("left out", "ranked too"),
        metrics=estimate(outcomes, judge),
        popularity=estimate(plain, judge),
    )


def _predict(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray) -> dict[str, Predictions]:
    scorers = network.pair_scorers()
    found: dict[str, list[Predictions]] = {name: [] for name in scorers}
    for batch in _target_batches(judge, split, rows) if scorers else ():
        encoded = network.recommender(batch.history)
        owners_BC = batch.users_B.unsqueeze(1).expand_as(batch.targets.items_BC)
        for name, task in scorers.items():
            labels_BC = batch.targets.labels[task.label]  # type: ignore[index]
            known_BC = batch.targets.mask_BC & labels_BC.isfinite()
            predicted_BC = task.predict(task.logits(encoded, batch.targets))
            predicted, labels, owners = (t[known_BC].cpu().numpy() for t in (predicted_BC, labels_BC, owners_BC))
            found[name].append(Predictions(predicted, labels, owners, task.positive_from))  # type: ignore[arg-type]
    return {name: _join(parts) for name, parts in found.items() if parts}


def _target_batches(judge: Judge, split: Split, rows: np.ndarray) -> Iterator[Batch]:
    """Yield every target of the split once, users with long periods through several windows."""
    for part in _batches(judge, rows):
        events, back = judge.reader.rows(part), 0
        while True:
            batch = make_batch(events, split, judge.reader.is_history, judge.max_length, windows_back=back)
            if back and not batch.targets.mask_BC.any():
                break
            yield batch.to(judge.device)
            back += 1


def _join(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(
        np.concatenate([part.predicted_N for part in parts]),
        np.concatenate([part.labels_N for part in parts]),
        np.concatenate([part.users_N for part in parts]),
        parts[0].positive_from,
    )


def _batches(judge: Judge, rows: np.ndarray) -> list[np.ndarray]:
    size = judge.config.batch_size
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def _nothing(rows: np.ndarray) -> Outcomes:
    return Outcomes(rows[:0], np.zeros((0, 0), np.int64), {}, {})
