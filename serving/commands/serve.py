"""raysys serve: run -> endpoint."""

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from json import dumps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raysys.commands.options import AsJson, DryRun, Root, RunName, Settings, print_json, print_plan

if TYPE_CHECKING:
    from raysys.runs import Run
    from serving.config import Autoscaling, ServeConfig

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    run: RunName,
    config: Annotated[Path | None, typer.Option(metavar="FILE.yaml", help="How to serve; see docs/serving.md.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes any free one [8000].")] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask nobody for a key; on this machine alone.")] = False,
    settings: Settings = None,
    root: Root = None,
    dry_run: DryRun = False,
    json: AsJson = False,
) -> None:
    """Answer for a run over HTTP until Ctrl-C; prints the URL when it is ready."""
    import raysys
    from raysys import cluster
    from serving import frontend
    from serving.checks import check_run, settle_port

    open_to_all = ["access.enabled=false"] if no_auth else []
    checked = _config(config, [*(settings or []), *open_to_all], host=host, port=port)
    opened = raysys.load(run, root)
    check_run(opened)
    checked = settle_port(checked)
    if dry_run:
        plan = _plan(opened, checked)
        print_json(plan) if json else print_plan(plan)
        return
    frontend.prepare(checked)
    ended = contextlib.suppress(KeyboardInterrupt)  # the way to stop it: nothing went wrong
    stdout = sys.stdout  # inside the block everything printed goes to stderr
    with cluster.connected(), _one_interrupt(), served(str(opened.path), checked) as url, ended:
        _say_how_to_try(opened, url, checked)
        print(dumps({"url": url, "run": opened.record.run_id}) if json else url, file=stdout, flush=True)
        threading.Event().wait()


def served(run_path: str, config: "ServeConfig | Mapping[str, Any]") -> contextlib.AbstractContextManager[str]:
    """Serve a run inside a `with` block, which is given the URL; nothing is left listening after it."""
    from raysys.configfile import build
    from serving.app import served as serve_run
    from serving.config import ServeConfig

    checked = config if isinstance(config, ServeConfig) else build(ServeConfig, dict(config), "serve")
    return serve_run(run_path, checked)


def prepare(config: "Mapping[str, Any]") -> None:
    """Get ready to serve later, before Ray starts; refuse a config whose port is taken, before hours of other work."""
    from raysys.configfile import build
    from serving import frontend
    from serving.checks import settle_port
    from serving.config import ServeConfig

    frontend.prepare(settle_port(build(ServeConfig, dict(config), "serve")))


def _config(path: Path | None, settings: list[str], **given: Any) -> "ServeConfig":
    from raysys.configfile import apply_settings, build, read_yaml
    from serving.config import ServeConfig

    node = read_yaml(path) if path is not None else {}
    node |= {key: value for key, value in given.items() if value is not None}
    return build(ServeConfig, apply_settings(node, settings), str(path) if path is not None else "serve")


def _plan(run: "Run", config: "ServeConfig") -> dict[str, Any]:
    from raysys.data.dataset import Dataset
    from raysys.errors import UserError

    try:
        users = Dataset.open(run.record.dataset).manifest.num_users
    except UserError:
        users = 0
    weights = 0 if config.scorer else run.record.parameters * 4 * 2
    plan = {
        "run": run.record.run_id,
        "url": f"{'http' if config.tls is None else 'https'}://{config.host}:{config.port}",
        "keys": "asked for" if config.access.enabled else "not asked for",
        "items": run.manifest.num_items,
        "users": users,
        "replicas": _times(config.autoscaling),
        "cpus": _times(config.autoscaling, config.num_cpus),
        "expected_replica_memory_bytes": (450 << 20) + weights + users * 4,
    }
    if (scorer := config.scorer) is not None:
        plan |= {
            "scorers": _times(scorer.autoscaling),
            "scorer_cpus": _times(scorer.autoscaling, scorer.num_cpus),
            "scorer_gpus": _times(scorer.autoscaling, scorer.num_gpus),
        }
    return plan


def _times(scaling: "Autoscaling", each: float = 1) -> str:
    return f"{scaling.min_replicas * each:g} to {scaling.max_replicas * each:g}"


def _say_how_to_try(run: "Run", url: str, config: "ServeConfig") -> None:
    from raysys.progress import console

    history = run.vocabulary.decode(run.catalog.popularity.argsort()[-1:]).to_pylist()
    body = shlex.quote(dumps({"history": history, "k": 5}))
    key = ' -H "authorization: Bearer $RAYSYS_KEY"' if config.access.enabled else ""
    command = f"curl -s {url}/v1/recommend{key} -H 'content-type: application/json' -d {body}"
    console.print(f"  try: {command}", markup=False, soft_wrap=True)
    console.print(f"  docs: {url}/docs   stop: Ctrl-C", soft_wrap=True)


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM begin an orderly end, and let no second one cut it short."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
