"""Runs the training loop in Ray Train's workers and turns the outcome into a run. The only place training meets ray."""

import importlib.metadata
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raysys import cluster
from raysys.config import RunConfig
from raysys.configfile import build, dump_yaml, load_plugins, read_yaml
from raysys.data.dataset import Dataset
from raysys.data.schema import Split
from raysys.errors import UserError
from raysys.evaluation.calibration.of_tasks import Calibrators, fit_calibrators, write_calibrators
from raysys.evaluation.evaluate import evaluate, examine
from raysys.evaluation.judge import Judge
from raysys.evaluation.latency import answer_latency
from raysys.evaluation.outcomes import FOLDER, users_of, write_outcomes
from raysys.evaluation.protocol import EvalReport
from raysys.progress import stage
from raysys.runs import RECORD, VALUES, Run, RunRecord, new_directory
from raysys.tasks.multitask import MultiTask
from raysys.training.checkpoint import checkpoints
from raysys.training.loop import TrainingLoop, read_history
from raysys.training.parallel import Parallel
from raysys.training.report import write_report
from raysys.training.start import build_network, resolve

STARTED = "started.json"


def train(config: RunConfig, output: str | None = None) -> Run:
    """Train a run from a config: workers, best weights, evaluation beside popularity; `run.json` is written last.

    Raises:
        UserError: dataset, parent or a task's needs are missing; no run directory is made then.
    """
    config = resolve(config)
    directory = new_directory(config.root, "runs", config.project, output)
    (directory / "config.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
    (directory / STARTED).write_text(json.dumps({"created": datetime.now(UTC).isoformat()}))
    return _complete(config, directory)


def resume(path: str | Path) -> Run:
    """Go on with an unfinished run from its newest checkpoint; ends as if it had never been interrupted.

    Raises:
        UserError: the directory is no run, or the run is finished.
    """
    directory = Path(path).absolute()
    if (directory / RECORD).is_file():
        raise UserError(f"--resume {path}: this run is finished; train on from it with --from {path}")
    if not (directory / "config.yaml").is_file():
        raise UserError(f"--resume {path}: not a run directory (no config.yaml)")
    config = build(RunConfig, read_yaml(directory / "config.yaml"), str(directory / "config.yaml"))
    return _complete(config, directory)


def describe(config: RunConfig) -> dict[str, Any]:
    """Tell what `train` would do, without doing it: for --dry-run."""
    config = resolve(config)
    dataset = open_dataset(config)
    network = MultiTask(config.model, config.tasks, dataset.manifest)
    parameters = sum(p.numel() for p in network.parameters())
    users = round(len(dataset.rows_with_targets(Split.TRAIN)) * config.training.user_share)
    steps = -(-users // config.training.batch_size)
    activations = config.training.batch_size * config.model.max_length * config.model.width * 4 * 40
    return {
        "dataset": config.dataset,
        "start_from": config.start_from,
        "tasks": list(config.tasks),
        "users": users,
        "items": dataset.manifest.num_items,
        "parameters": parameters,
        "steps_per_epoch": steps,
        "most_steps": steps * config.training.epochs,
        "workers": config.training.num_workers,
        "expected_disk_bytes": parameters * 4 * 8,  # best, final, and two checkpoints of weights and two moments
        "expected_memory_bytes_per_worker": (450 << 20) + parameters * 4 * 4 + activations,
    }


def measure_latency(config: RunConfig, directory: Path) -> float:
    """Return the milliseconds that the best weights of a training so far take to answer one user, on the CPU.

    Raises:
        UserError: no task retrieves.
    """
    dataset = open_dataset(config)
    with torch.random.fork_rng(devices=[]):  # the training goes on with its own draws
        network = MultiTask(config.model, config.tasks, dataset.manifest)
    network.load_state_dict(load_file(directory / "best.safetensors"))
    return answer_latency(Judge.of(dataset, config.evaluation, config.model.max_length), network)


def run_loop(config: RunConfig, directory: Path, on_epoch: Callable[[dict[str, float]], None] | None = None) -> None:
    """Train in this process, as one rank of whatever process group it belongs to."""
    load_plugins(list(config.plugins), "config")
    parallel = Parallel.current(config.training.gpu)
    torch.set_num_threads(config.training.threads)
    dataset = open_dataset(config)
    TrainingLoop(config, dataset, build_network(config, dataset), directory, parallel, on_epoch).run()


def _complete(config: RunConfig, directory: Path) -> Run:
    start = time.perf_counter()
    with stage(f"train {', '.join(config.tasks)} on {config.training.num_workers} worker(s)") as remarks:
        launch(config, directory)
        history = read_history(directory)
        remarks.append(f"{len(history)} epochs")
    with stage("evaluate beside baselines") as remarks:
        record = _finish(config, directory, time.perf_counter() - start)
        remarks += [f"{name} {value:.4f}" for name, value in record.test.items() if name.endswith(".ndcg@10")]
    run = Run.open(directory)
    write_report(run)
    return run


def launch(config: RunConfig, directory: Path, resources: Mapping[str, float] | None = None) -> None:
    """Let Ray Train run the loop: in this process for one worker, else in a group that is restarted when it breaks.

    Each worker takes some `resources`, by default a core, and a GPU where the config says so. One worker trains without
    Ray where there is none: on a GPU machine to which a dataset was copied, for instance.
    """
    if config.training.num_workers == 1 and importlib.util.find_spec("ray") is None:
        run_loop(config, directory)
        return
    cluster.prepare_environment()
    import ray.train
    from ray.train.torch import TorchTrainer

    cluster.quiet_ray()
    workers = config.training.num_workers
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "directory": str(directory)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers if workers > 1 else 0,
            use_gpu=config.training.gpu,
            resources_per_worker=None if resources is None else dict(resources),
        ),
        run_config=ray.train.RunConfig(
            name=directory.name,
            storage_path=str(directory / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=config.training.max_failures),
        ),
    )
    with cluster.user_errors():
        if workers == 1:
            trainer.fit()
        else:
            with cluster.connected():
                trainer.fit()
    shutil.rmtree(directory / "ray", ignore_errors=True)


def _worker(arguments: dict[str, Any]) -> None:
    import ray.train

    load_plugins(arguments["config"]["plugins"], "config")
    config = RunConfig.model_validate(arguments["config"])
    run_loop(config, Path(arguments["directory"]), ray.train.report)


def _finish(config: RunConfig, directory: Path, seconds: float) -> RunRecord:
    dataset = open_dataset(config)
    network = MultiTask(config.model, config.tasks, dataset.manifest)
    network.load_state_dict(load_file(directory / "best.safetensors"))
    reports = examine_and_keep(config, dataset, network, directory)
    (directory / "report.json").write_text(json.dumps([report.to_json() for report in reports], indent=1))
    for name in ("vocabulary.arrow", "catalog.arrow"):
        shutil.copyfile(dataset.path / name, directory / name)
    (directory / VALUES).write_text(json.dumps(dataset.values_by_column()))
    (directory / "dataset.json").write_text(dataset.manifest.model_dump_json(indent=1))
    (directory / "best.safetensors").replace(directory / "model.safetensors")
    record = _record(config, directory, dataset, network, reports, seconds)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    partial = directory / f".{RECORD}.partial"
    partial.write_text(record.model_dump_json(indent=1))
    partial.replace(directory / RECORD)
    return record


def evaluate_splits(
    run: Run, dataset: Dataset, splits: tuple[Split, ...] = (Split.VALID, Split.TEST)
) -> list[EvalReport]:
    """Evaluate a run on each of the splits that has users, with intervals and beside the baselines."""
    dataset = dataset.with_validation() if run.config.training.include_validation else dataset
    judge = _judge(run.config, dataset)
    network = run.network.to(judge.device)
    return [evaluate(judge, network, split, run.calibrators) for split in splits if len(judge.rows(split))]


def examine_and_keep(config: RunConfig, dataset: Dataset, network: MultiTask, directory: Path) -> list[EvalReport]:
    """Evaluate on validation and test; what was found for each user is kept with the run, and so is the calibration."""
    judge, reports = _judge(config, dataset), []
    network.to(judge.device)
    calibrators: Calibrators = {}
    for split in (Split.VALID, Split.TEST):  # in this order: calibrations learn from validation alone
        if not len(judge.rows(split)):
            continue
        found = examine(judge, network, split, calibrators)
        if split == Split.VALID:
            calibrators = fit_calibrators(config.evaluation.calibration, found.outcomes.predictions)
            write_calibrators(calibrators, directory)
        users = users_of(found.outcomes)
        path = directory / FOLDER / f"{found.report.split}.parquet"
        write_outcomes(found.outcomes, judge.reader.user_ids(users), users, path)
        reports.append(found.report)
    return reports


def open_dataset(config: RunConfig) -> Dataset:
    """Return the dataset of a run, as the run is to see it."""
    dataset = Dataset.open(str(config.dataset))
    return dataset.with_validation() if config.training.include_validation else dataset


def _judge(config: RunConfig, dataset: Dataset) -> Judge:
    device = torch.device("cuda" if config.training.gpu and torch.cuda.is_available() else "cpu")
    return Judge.of(dataset, config.evaluation, config.model.max_length, device)


def _record(
    config: RunConfig,
    directory: Path,
    dataset: Dataset,
    network: MultiTask,
    reports: list[EvalReport],
    seconds: float,
) -> RunRecord:
    position = json.loads((checkpoints(directory / "checkpoints")[-1] / "position.json").read_text())
    means = {report.split: {name: found.mean for name, found in report.metrics.items()} for report in reports}
    used = [name for name in ("raysys", "torch", "ray", "pyarrow") if importlib.util.find_spec(name) is not None]
    return RunRecord(
        run_id=directory.name,
        project=config.project,
        created=json.loads((directory / STARTED).read_text())["created"],
        seconds=round(seconds, 3),
        epochs=position["epoch"],
        best_epoch=position["best_epoch"] if position["best_epoch"] > 0 else position["epoch"],
        steps=position["step"],
        parent=config.start_from,
        dataset=str(dataset.path),
        dataset_version=dataset.manifest.version,
        dataset_fingerprint=dataset.manifest.fingerprint,
        parameters=sum(p.numel() for p in network.parameters()),
        valid=means.get("valid", {}),
        test=means.get("test", {}),
        versions={name: importlib.metadata.version(name) for name in used},
    )
