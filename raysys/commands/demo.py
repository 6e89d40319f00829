"""raysys demo: the whole line on MovieLens-100K, in one Ray: logs in, recommendations from an endpoint out."""

import contextlib
import importlib
import importlib.metadata
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysys.commands.options import Root
from raysys.errors import UserError

if TYPE_CHECKING:
    from raysys.data.dataset import Dataset
    from raysys.runs import Run

app = typer.Typer(add_completion=False)
_PROJECT = "movielens"
_GENERATED = {
    "format": "synthetic",
    "path": "",
    "num_users": 1500,
    "num_items": 600,
    "events_per_user": 60,
    "order": 0.6,
}

_QUICK = {"pretrain": "training.epochs=8", "tune": "num_trials=2", "finetune": "training.epochs=3"}


@dataclass(frozen=True)
class Configs:
    """The example configs that the demo runs, as sparse mappings."""

    ingest: dict[str, Any]
    pretrain: dict[str, Any]
    finetune: dict[str, Any]
    tune: dict[str, Any]
    serve: dict[str, Any]


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="Directory that holds movielens-100k/ [$RAYSYS_DATA].")] = None,
    root: Root = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer epochs and trials: about a minute, a worse model.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the endpoint.")] = 8000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the endpoint up until Ctrl-C.")] = False,
) -> None:
    """Ingest, pretrain, tune, fine-tune, evaluate, promote and serve: a few minutes on two cores."""
    from raysys import cluster
    from raysys.configfile import store_root
    from raysys.progress import console, stage

    started = time.perf_counter()
    place = root or store_root()
    configs = _configs(data, place, quick)
    _verb_module("serve").prepare({**configs.serve, "port": port})
    with contextlib.ExitStack() as ray:
        with stage("start Ray"):
            ray.enter_context(cluster.connected())
        dataset = _ingest(configs, place)
        run = _learn(configs, place)
        _show_report(run)
        console.print(f"  promoted {run.record.run_id} to {_PROJECT}@champion")
        # A store that an earlier demo filled from a generated log, whose days are later, would keep those users.
        _verb_module("users").load(str(run.path), root=place)
        served = _verb_module("serve").served
        alone = {"enabled": False}  # it asks itself, and listens on this machine only
        with served(str(run.path), {**configs.serve, "port": port, "access": alone}) as url:
            _ask(url, dataset)
            _closing(url, time.perf_counter() - started, keep)
            if keep:
                _wait()


def _configs(data: Path | None, root: str, quick: bool) -> Configs:
    from raysys.configfile import apply_settings, read_yaml

    examples = _examples() / "movielens-100k"
    names = ("ingest", "pretrain", "finetune", "tune", "serve")
    configs = Configs(**{name: {"root": root, **read_yaml(examples / f"{name}.yaml")} for name in names})
    changes: dict[str, Any] = {"ingest": {**configs.ingest, "sources": [_source(data, root)]}}
    for name in ("tune", "serve"):  # these take their root from the run
        changes[name] = {key: value for key, value in vars(configs)[name].items() if key != "root"}
    for name, setting in _QUICK.items() if quick else ():
        changes[name] = apply_settings(changes.get(name, vars(configs)[name]), [setting])
    return Configs(**{**vars(configs), **changes})


def _source(data: Path | None, root: str) -> dict[str, Any]:
    """Find MovieLens-100K, else download it, else say so and generate a log."""
    from raysys.commands.download import DownloadError, download_movielens
    from raysys.progress import console

    place = data or Path(os.environ.get("RAYSYS_DATA", "data"))
    found = place / "movielens-100k" if (place / "movielens-100k").is_dir() else place
    if (found / "u.data").is_file():
        return {"format": "movielens", "path": str(found)}
    if data is not None:
        raise UserError(f"--data {data}: neither u.data nor movielens-100k/u.data is there")
    try:
        path = download_movielens(Path(root) / "downloads")
    except DownloadError as error:
        console.print(f"  MovieLens-100K is neither under {place} nor can it be downloaded ({error});", soft_wrap=True)
        console.print("  using a generated log instead: the figures say that the line works, not how good it is")
        return _GENERATED
    return {"format": "movielens", "path": str(path)}


def _ingest(configs: Configs, root: str) -> "Dataset":
    import raysys
    from raysys.progress import console

    console.rule("ingest", align="left")
    dataset = raysys.ingest(configs.ingest, Path(root) / "datasets" / _PROJECT)
    manifest = dataset.manifest
    console.print(f"  {manifest.num_users:,} users, {manifest.num_items:,} items, {manifest.num_events:,} events")
    return dataset


def _learn(configs: Configs, root: str) -> "Run":
    import raysys
    from raysys import runs
    from raysys.configfile import read_yaml
    from raysys.progress import console

    console.rule("pretrain: what comes next", align="left")
    pretrained = raysys.train(configs.pretrain)
    runs.promote(pretrained, root, "pretrained")
    console.rule("tune: the weight of the rating task and the learning rate", align="left")
    tune_study: Callable[..., Path] = _verb_module("tune").tune_study
    best = tune_study(configs.tune, base=configs.finetune)
    console.rule("fine-tune: next item and rating, with the best setting", align="left")
    run = raysys.train(read_yaml(best))
    runs.promote(run, root, "champion")
    return run


def _show_report(run: "Run") -> None:
    from raysys.evaluation.protocol import EvalReport
    from raysys.evaluation.report import report_table
    from raysys.progress import console

    console.rule("evaluate: beside popularity", align="left")
    report = EvalReport.from_json(run.reports[-1])
    wanted = (".ndcg@10", ".recall@10", ".coverage@10", ".rmse", ".auc")
    metrics = {name: found for name, found in report.metrics.items() if name.endswith(wanted)}
    console.print(report_table(EvalReport(report.split, report.protocol, metrics, report.baselines)))


def _ask(url: str, dataset: "Dataset") -> None:
    """Ask the endpoint for two users and print what it answers beside what they liked."""
    import httpx
    import numpy as np

    from raysys.data.reader import ShardReader
    from raysys.progress import console

    console.rule(f"serve: {url}", align="left")
    reader, client = ShardReader(dataset), httpx.Client(timeout=30, trust_env=False)  # localhost needs no proxy
    for row in (0, dataset.manifest.num_users // 2):
        user = reader.user_ids(np.array([row]))[0].as_py()
        answer = client.post(f"{url}/v1/recommend", json={"user_id": user, "k": 5}).raise_for_status().json()
        liked = _liked(reader.rows(np.array([row])), dataset)
        console.print(f"  user {user} liked: {'; '.join(liked)}", markup=False, soft_wrap=True)
        for item in answer["items"]:
            values = ", ".join(f"{name} {value:.1f}" for name, value in item["scores"].items())
            title = item["title"] or item["item_id"]
            console.print(f"    → {title}" + (f" ({values})" if values else ""), markup=False, soft_wrap=True)


def _liked(rows: Any, dataset: "Dataset") -> list[str]:
    import numpy as np

    from raysys.data.schema import FIRST_ITEM

    known = rows.items >= FIRST_ITEM
    stars = rows.labels.get("rating", np.zeros(len(rows.items)))
    newest_best = np.lexsort((np.arange(len(stars)), np.where(known, stars, -1)))[::-1][:3]
    chosen = rows.items[newest_best[known[newest_best]]]
    ids = dataset.vocabulary.decode(chosen).to_pylist()
    return [title or name for title, name in zip(dataset.catalog.titles(chosen), ids, strict=True)]


def _closing(url: str, seconds: float, keep: bool) -> None:
    from raysys.progress import console

    console.rule(f"done in {seconds:.0f} s", align="left")
    console.print("  Try next:")
    console.print(f"    raysys runs show {_PROJECT}@champion")
    console.print(f"    raysys serve {_PROJECT}@champion      # and open /docs on it")
    console.print("    raysys init YOUR_LOG                  # your own logs: docs/your-own-logs.md")
    if keep:
        console.print(f"  The endpoint stays up at {url} until Ctrl-C.")


def _wait() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _verb_module(verb: str) -> Any:
    """Load the module behind a verb: the demo joins stages through the same entry points as the command line."""
    points = {point.name: point for point in importlib.metadata.entry_points(group="raysys.commands")}
    if verb not in points:
        raise UserError(f"demo: the verb {verb!r} is not installed; install raysys whole")
    return importlib.import_module(points[verb].module)


def _examples() -> Path:
    """Return the folder of example configs: of the checkout, or as installed with the package."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "examples", package.parent / "examples"):
        if place.is_dir():
            return place
    raise UserError("demo: the example configs are not installed; run it from a checkout")
