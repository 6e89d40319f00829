"""What tasks say of labels, beside what is true: of pairs, each from the state before it, and of users and items."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from raysys.data.batches import Batch, Targets, make_batch
from raysys.data.demand import demand
from raysys.data.reader import UserRows
from raysys.data.schema import FIRST_ITEM, Split
from raysys.evaluation.calibration.of_tasks import pair_predictions
from raysys.evaluation.gates import GateMeter
from raysys.evaluation.judge import Judge
from raysys.evaluation.pointwise import Predictions, join
from raysys.evaluation.protocol import Gates
from raysys.tasks.multitask import MultiTask
from raysys.tasks.task import ScoresItems, ScoresPairs, ScoresUsers

_USERS_AT_ONCE = 1 << 16  # whose labels are in memory while they are counted


def predict_pairs(
    judge: Judge, network: MultiTask, split: Split, rows: np.ndarray
) -> tuple[dict[str, Predictions], Gates]:
    """Predict the labels of every event of a split of some users, and see how the tasks mix experts for it."""
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


def predict_users(judge: Judge, network: MultiTask, split: Split, rows: np.ndarray) -> dict[str, Predictions]:
    """Foretell the outcomes of users that the period of a split closes, at the tokens of their newest window."""
    tasks = {name: task for name, task in network.named_tasks().items() if isinstance(task, ScoresUsers)}
    found: dict[str, list[Predictions]] = {name: [] for name in tasks}
    for part in judge.parts(rows) if tasks else ():
        events = judge.reader.rows(part)
        known = replace(events, marks=np.where(events.marks <= split, split, Split.NONE).astype(np.int8))
        batch = make_batch(known, split, judge.reader.is_history, judge.max_length, newest=True).to(judge.device)
        views = {name: task.outcomes(batch, split).targets for name, task in tasks.items()}
        if not any(view.mask_BC.any() for view in views.values()):
            continue
        encoded = network.recommender(batch.history)
        for name, view in views.items():
            owners_BC = batch.history.users_B.unsqueeze(1).expand_as(view.items_BC)
            told_BC, truth_BC = tasks[name].predict(tasks[name].logits(encoded, view)), tasks[name].truth(view)
            told, truth, owners = (t[view.mask_BC].cpu().numpy() for t in (told_BC, truth_BC, owners_BC))
            found[name].append(Predictions(told, truth, owners, tasks[name].positive_from, tasks[name].predicts))
    return {name: join(parts) for name, parts in found.items() if parts}


def predict_items(judge: Judge, network: MultiTask, split: Split) -> dict[str, Predictions]:
    """Foretell the demand of all items in the period of a split; both sides are log(1 + demand)."""
    tasks = {name: task for name, task in network.named_tasks().items() if isinstance(task, ScoresItems)}
    if not tasks:
        return {}
    table_VD, truth = network.recommender.vectors().table(), demand(judge.dataset, split)[FIRST_ITEM:]
    items = np.arange(len(truth)) + FIRST_ITEM
    return {
        name: Predictions(np.log1p(task.foretold(table_VD).cpu().numpy()), np.log1p(truth), items, None)
        for name, task in tasks.items()
    }


def demand_so_far(judge: Judge, foretold: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Return the demand over all of training in the place of what tasks foretell: what is simplest to say."""
    if not foretold:
        return {}
    known = np.log1p(demand(judge.dataset, Split.TRAIN)[FIRST_ITEM:])
    return {name: replace(one, predicted_N=known) for name, one in foretold.items()}


def _target_batches(judge: Judge, split: Split, rows: np.ndarray) -> Iterator[Batch]:
    """Yield every target of the split once, users with long periods through several windows."""
    for part in judge.parts(rows):
        events, back = judge.reader.rows(part), 0
        while True:
            batch = make_batch(
                events, split, judge.reader.is_history, judge.max_length, windows_back=back, live=judge.config.live
            )
            if back and not batch.targets.mask_BC.any():
                break
            yield batch.to(judge.device)
            back += 1


def training_mean(judge: Judge, network: MultiTask, predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """Return for every pair the mean of what is true of training events, or the share of them that are positive."""
    means, constants = _means(judge, network.pair_scorers()) if predictions else {}, {}
    for name, found in ((name, predictions[name]) for name in means if name in predictions):
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
