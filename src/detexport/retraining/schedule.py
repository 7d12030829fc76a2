"""Retraining as a flow of Prefect: a schedule, retries after exit code 3, and a page with all runs.

The server is that of ``PREFECT_API_URL``.
"""

import os
import signal
import subprocess
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.flows import EntrypointType
from prefect.schedules import Cron
from prefect.tasks import Task

from detexport.errors import BROKEN, REQUEST, VERDICT, ConfigError

NAME = "retrain-and-export"
COMMAND = ("-m", "detexport.cli.retraining", "retrain")
KEPT_LINES = 20
GRACE_S = 120.0
"""Seconds after its own time limit in which a job writes its summary and ends; then Prefect ends it."""
END_S = 60.0
"""Seconds after SIGTERM in which a job ends its pipeline; then it is killed with all its processes."""


class RefusedError(Exception):
    """The retraining run refused the data or a version; its message says for each version what happened."""


class InvalidProjectError(Exception):
    """The retraining run found an invalid request; a retry gives the same result."""


class BrokenError(Exception):
    """The retraining run failed with code 3; a retry may succeed."""


ERRORS: dict[int, type[Exception]] = {
    VERDICT: RefusedError,
    REQUEST: InvalidProjectError,
    BROKEN: BrokenError,
}


def is_worth_a_retry(_task: "Task[..., Any]", _run: TaskRun, state: "State[Any]") -> bool:
    """Return whether a retraining run failed with code 3 or did not end, so that a retry may succeed."""
    return isinstance(state.result(raise_on_failure=False), (BrokenError, TimeoutError))


@task(name="detexport-job retrain", retry_condition_fn=is_worth_a_retry)
def run_job(project: str, python: str, timeout_s: float | None = None) -> str:
    """Run `detexport-job retrain` in its own process, log its output in Prefect, and return its last lines.

    Args:
        project: the project's folder.
        python: the interpreter of the project's environment, which need not have Prefect.
        timeout_s: seconds after which the job ends itself; None for no limit.

    Raises:
        RefusedError, InvalidProjectError, BrokenError: by its exit code.
    """
    logger, kept = get_run_logger(), deque[str](maxlen=KEPT_LINES)
    command = [python, *COMMAND, "--project", project]
    command += [] if timeout_s is None else ["--timeout", f"{timeout_s:g}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.append(line)
                logger.info(line.rstrip())
        except BaseException:  # the run was cancelled, or it did not end
            _end(process)
            raise
    if process.returncode:
        raise ERRORS.get(process.returncode, BrokenError)("".join(kept).strip() or f"{process.returncode}")
    return "".join(kept).strip()


def _end(process: "subprocess.Popen[str]") -> None:
    """End a job: it ends its own pipeline; one that hangs is killed with all processes below it."""
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        for pid in (process.pid, *_below(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """Return the processes that a process started, and those that these started; where Linux lists them."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children[int(parent)].append(int(stat.parent.name))

    def all_below(one: int) -> Iterator[int]:
        for child in children[one]:
            yield child
            yield from all_below(child)

    return list(all_below(pid))


@flow(name=NAME)
def retrain_and_export(
    project: str,
    python: str,
    retries: int = 2,
    retry_delay_s: float = 600.0,
    timeout_s: float | None = None,
    grace_s: float = GRACE_S,
) -> str:
    """Retrain, export and promote; fail if something was refused, and retry after exit code 3.

    Args:
        project: the project's folder.
        python: the interpreter of the project's environment.
        retries: number of retries after exit code 3.
        retry_delay_s: seconds before each retry.
        timeout_s: seconds after which one try ends itself; None for no limit.
        grace_s: seconds after this limit at which Prefect ends a try that hangs, with all its processes.
    """
    limit = None if timeout_s is None else timeout_s + grace_s
    job = run_job.with_options(retries=retries, retry_delay_seconds=retry_delay_s, timeout_seconds=limit)
    return job(project, python, timeout_s)


def serve(
    project: Path,
    *,
    python: Path,
    cron: str,
    timezone: str,
    retries: int,
    retry_delay_s: float,
    timeout_s: float | None,
) -> None:
    """Run the flow at the times of a cron expression, until the process ends.

    Args:
        project: the project's folder.
        python: the interpreter of the project's environment.
        cron: the expression.
        timezone: of the expression, such as ``Europe/Berlin``.
        retries: see ``retrain_and_export``.
        retry_delay_s: see ``retrain_and_export``.
        timeout_s: see ``retrain_and_export``.

    Raises:
        ConfigError: the expression or the time zone is invalid.
    """
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(
            "invalid schedule",
            got=f"{cron} in {timezone}",
            expected="five fields, such as 0 2 * * *, and a time zone, such as Europe/Berlin",
            remedy="correct --cron or --timezone",
        ) from error
    retrain_and_export.serve(
        name=project.resolve().name,
        schedule=schedule,
        parameters={
            "project": str(project.resolve()),
            "python": str(python),
            "retries": retries,
            "retry_delay_s": retry_delay_s,
            "timeout_s": timeout_s,
        },
        limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
