"""raysys submit: any verb as a job on a Ray cluster; packs the directory, follows the log, ends with its exit code."""

import asyncio
import os
import shlex
import sys
import time
from typing import Annotated, Any

import typer

from raysys.errors import UserError

app = typer.Typer(add_completion=False)
_AGENT_SECONDS = 60
_LEFT_OUT = [".venv", ".git", "store", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"]


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def submit(
    command: Annotated[list[str], typer.Argument(metavar="VERB ...", help="A raysys command line, without `raysys`.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.")
    ] = "http://127.0.0.1:8265",
    directory: Annotated[str, typer.Option("--working-dir", help="Directory that the job sees as its own.")] = ".",
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Print the job's log until it ends.")] = True,
) -> None:
    """Run a verb on a cluster: `raysys submit train pretrain.yaml`. Files that git ignores do not travel."""
    client = _connect(address)
    job = _submit(client, command, directory)
    print(f"job {job} submitted to {address}", file=sys.stderr)
    if not follow:
        print(job)
        return
    try:
        asyncio.run(_print_log(client, job))
    except KeyboardInterrupt:
        print(f"\nthe job goes on; stop it with: ray job stop {job} --address {address}", file=sys.stderr)
        raise
    raise typer.Exit(_exit_code(client, job))


def _connect(address: str) -> Any:
    from raysys import cluster

    cluster.prepare_environment()
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--address {address}: no Ray dashboard answers ({reason}); start a cluster with `ray up cluster.yaml` and "
            "`ray dashboard cluster.yaml`, or check the token (RAY_AUTH_TOKEN or ~/.ray/auth_token)"
        ) from None


def _submit(client: Any, command: list[str], directory: str) -> str:
    """Submit the job; a cluster that has just started has no agent for some seconds, so wait for one."""
    runtime = {"working_dir": directory, "excludes": _LEFT_OUT, "env_vars": _variables()}
    end = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            job: str = client.submit_job(
                entrypoint=f"python -m raysys {shlex.join(command)}",
                runtime_env=runtime,
                metadata={"raysys_verb": command[0]},
            )
            return job
        except ValueError as error:
            raise UserError(f"--working-dir {directory}: cannot be packed: {error}") from None
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


def _variables() -> dict[str, str]:
    from raysys import cluster

    passed = {name: os.environ[name] for name in ("RAYSYS_ROOT", "RAYSYS_DATA") if name in os.environ}
    return {**cluster.ENVIRONMENT, **passed}


async def _print_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


def _exit_code(client: Any, job: str) -> int:
    """Return the verb's own exit code; 1 for a job that Ray could not run or that was stopped."""
    info = client.get_job_info(job)
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None:
        print(f"job {job} {info.status}: {info.message}", file=sys.stderr)
    return info.driver_exit_code or 1
