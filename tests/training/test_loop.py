import json

import pytest
import torch

from raysys.errors import UserError
from raysys.tasks.multitask import MultiTask
from raysys.training.checkpoint import checkpoints
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.start import build_network


def _loop(config, dataset, directory, **options):
    directory.mkdir(exist_ok=True)
    return TrainingLoop(config, dataset, build_network(config, dataset), directory, show=False, **options)


def _weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


class Interrupt(Exception):
    pass


def interrupt_at(loop, step):
    inner = loop.learner.step

    def stop(number, parts):
        if number == step:
            raise Interrupt
        return inner(number, parts)

    loop.learner.step = stop


def test_the_same_seed_gives_the_same_run(config_of, contract_dataset, tmp_path):
    first = _loop(config_of(), contract_dataset, tmp_path / "a").run()
    second = _loop(config_of(), contract_dataset, tmp_path / "b").run()
    assert _same(_weights(first.network), _weights(second.network))
    other = _loop(config_of(seed=1), contract_dataset, tmp_path / "c").run()
    assert not _same(_weights(first.network), _weights(other.network))


@pytest.mark.parametrize("step", [3, 7, 9, 16])  # within an epoch, at its end, and after it; checkpoints every 2 steps
def test_an_interrupted_run_ends_equal_to_an_uninterrupted_one(config_of, contract_dataset, tmp_path, step):
    model = {"width": 16, "max_length": 6, "dropout": 0.2, "backbone": {"num_blocks": 1}}
    training = {"epochs": 3, "batch_size": 32, "threads": 1, "checkpoint_every": 2, "average_decay": 0.9}
    config = config_of(model=model, training=training)
    whole = _loop(config, contract_dataset, tmp_path / "whole")
    expected = whole.run()
    broken = _loop(config, contract_dataset, tmp_path / "broken")
    interrupt_at(broken, step)
    with pytest.raises(Interrupt):
        broken.run()
    resumed = _loop(config, contract_dataset, tmp_path / "broken")
    result = resumed.run()
    assert _same(_weights(expected.network), _weights(result.network))
    keys = ("epoch", "step", "loss", "loss/next_item", "loss/rating", "next_item.ndcg@10", "rating.rmse")
    for ours, theirs in zip(read_history(tmp_path / "broken"), read_history(tmp_path / "whole"), strict=True):
        assert {key: ours[key] for key in keys} == {key: theirs[key] for key in keys}


OPTIMIZERS_TO_RESUME = [
    {"kind": "adam", "learning_rate": 0.01},
    {"kind": "sgd", "learning_rate": 0.5},
    {"kind": "sgd", "learning_rate": 0.5, "nesterov": True, "weight_decay": 0.01},
    {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.0},
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS_TO_RESUME, ids=str)
def test_every_optimizer_learns_and_resumes_byte_for_byte(config_of, contract_dataset, tmp_path, optimizer):
    training = {"epochs": 3, "batch_size": 32, "threads": 1, "checkpoint_every": 2, "accumulate": 2}
    config = config_of(training=training, optimizer={"warmup_steps": 5, **optimizer})
    expected = _loop(config, contract_dataset, tmp_path / "whole").run()
    broken = _loop(config, contract_dataset, tmp_path / "broken")
    interrupt_at(broken, 9)
    with pytest.raises(Interrupt):
        broken.run()
    assert _same(
        _weights(expected.network), _weights(_loop(config, contract_dataset, tmp_path / "broken").run().network)
    )
    history = read_history(tmp_path / "broken")
    assert history[-1]["loss/next_item"] < history[0]["loss/next_item"]
    assert [line["loss"] for line in history] == [line["loss"] for line in read_history(tmp_path / "whole")]


def test_the_best_epoch_is_kept_and_patience_ends_the_run(config_of, contract_dataset, tmp_path):
    training = {
        "epochs": 40,
        "batch_size": 32,
        "threads": 1,
        "early_stopping": {"metric": "rating.rmse", "patience": 2},
    }
    optimizer = {"learning_rate": 0.05, "warmup_steps": 0}
    result = _loop(config_of(training=training, optimizer=optimizer), contract_dataset, tmp_path / "run").run()
    history = read_history(tmp_path / "run")
    best = min(history, key=lambda line: line["rating.rmse"])
    assert result.position.best_epoch == best["epoch"]
    assert len(history) == best["epoch"] + 2 < 40
    assert result.metrics["rating.rmse"] == best["rating.rmse"]


def test_an_unknown_metric_is_refused_with_the_ones_there_are(config_of, contract_dataset, tmp_path):
    training = {"epochs": 1, "threads": 1, "early_stopping": {"metric": "next_item.ndgc@10"}}
    with pytest.raises(UserError, match=r"did you mean 'next_item.ndcg@10'"):
        _loop(config_of(training=training), contract_dataset, tmp_path / "run").run()


def test_the_running_average_is_what_is_kept(config_of, contract_dataset, tmp_path):
    """Of one epoch from one seed: the steps are the same, the kept weights are their average."""
    plain = {"epochs": 1, "batch_size": 32, "threads": 1}
    loop = _loop(config_of(training=plain), contract_dataset, tmp_path / "plain")
    seen, inner = [], loop.learner.step

    def step(*arguments):
        losses = inner(*arguments)
        seen.append(_weights(loop.network))
        return losses

    loop.learner.step = step
    loop.run()
    averaged = _loop(config_of(training={**plain, "average_decay": 0.5}), contract_dataset, tmp_path / "averaged").run()
    name = "recommender.items.encoders.id.embedding.weight"
    mean = build_network(config_of(), contract_dataset).state_dict()[name]
    for at, weights in enumerate(seen):
        decay = min(0.5, (1 + at) / (10 + at))
        mean = decay * mean + (1 - decay) * weights[name]
    assert torch.allclose(averaged.network.state_dict()[name], mean, atol=1e-6)
    assert not torch.allclose(seen[-1][name], mean, atol=1e-4)


def test_checkpoints_hold_no_pickle_and_only_two_stay(config_of, contract_dataset, tmp_path):
    training = {"epochs": 3, "batch_size": 32, "threads": 1, "checkpoint_every": 2}
    _loop(config_of(training=training), contract_dataset, tmp_path / "run").run()
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert len(kept) == 2
    assert {file.suffix for path in kept for file in path.iterdir()} == {".safetensors", ".json"}


def test_heads_alone_leave_the_body_as_it_was(config_of, contract_dataset, tmp_path):
    config = config_of(adapt={"kind": "heads"})
    before = _weights(build_network(config, contract_dataset))
    after = _weights(_loop(config, contract_dataset, tmp_path / "run").run().network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("tasks.") for name in changed)


def test_heads_of_a_task_without_a_head_are_refused(config_of, contract_dataset, tmp_path):
    with pytest.raises(UserError, match="nothing to train"):
        _loop(config_of(adapt={"kind": "heads"}, tasks={"next_item": {}}), contract_dataset, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(config_of, contract_dataset, tmp_path):
    optimizer = {"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": None}
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        _loop(config_of(optimizer=optimizer), contract_dataset, tmp_path / "run").run()


def test_a_weight_of_zero_switches_a_task_off(config_of, contract_dataset, tmp_path):
    config = config_of(weighting={"weights": {"rating": 0.0}})
    before = _weights(build_network(config, contract_dataset))
    after = _weights(_loop(config, contract_dataset, tmp_path / "run").run().network)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("tasks.rating"))


def test_epochs_report_speed_losses_and_validation(config_of, contract_dataset, tmp_path):
    reported = []
    _loop(config_of(), contract_dataset, tmp_path / "run", on_epoch=reported.append).run()
    assert [line["epoch"] for line in reported] == [1, 2, 3]
    assert reported[-1]["loss"] < reported[0]["loss"]
    assert {"next_item.ndcg@10", "rating.rmse", "rating.auc", "loss/next_item", "users_per_second"} <= set(reported[0])
    assert json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[0]) == reported[0]


def test_a_model_is_built_for_what_the_dataset_has(config_of, contract_dataset):
    config = config_of(tasks={"next_item": {}, "stars": {"kind": "rating", "label": "ratings"}})
    with pytest.raises(UserError, match="did you mean 'rating'"):
        MultiTask(config.model, config.tasks, contract_dataset.manifest)
