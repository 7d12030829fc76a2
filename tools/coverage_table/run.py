"""Run steps in parallel, each in its own process; reuse the results of steps whose inputs are unchanged.

``dvc repro --keep-going`` also continues after a failed stage, but DVC runs one stage at a time, and its
queue of experiments runs each in a copy of the repository, which would rerun references for every cell.
"""

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coverage_table.steps import Step, inside
from detexport.errors import ConfigError, DataError, DetexportError
from detexport.execution.engine import Command, Execution, Local, Resources
from detexport.system.digests import sha256_json, sha256_tree
from detexport.system.files import read_json, write_json
from detexport.system.locks import locked

OK, FAILED, UNAVAILABLE, BLOCKED = "ok", "failed", "unavailable", "blocked"
# One thread per process and fixed hashes: a step's output does not depend on the other steps.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTHONHASHSEED": "0",
}
WITHOUT_MODELS = ("validate",)
"""Stages that run in a process that cannot import the models' code, since an artifact must not need it."""

WITHOUT = """
import os, runpy, sys
sys.modules[sys.argv[1]] = None
sys.argv = sys.argv[2:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the script of the second argument in a process that cannot import the module of the first."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step.

    Args:
        key: digest of everything that the step depends on.
        status: ``ok``; ``failed``; ``unavailable``: this machine lacks a requirement; or ``blocked``: a step
            before it did not succeed.
        reason: why it is not ``ok``.
        seconds: elapsed time.
        cpu_seconds: CPU time.
        peak_bytes: peak memory of its process.
        outs: digest of each file or folder that it wrote.
    """

    key: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    outs: dict[str, str] = field(default_factory=dict)


class Records:
    """The outcomes of successful steps, in a folder.

    An outcome is stored with its key, a digest of its command, its parameters and all files that it reads,
    its code included. So a runner continues where a killed one stopped. A failed step runs again, since its
    cause may be outside the key (a full disk).

    Args:
        folder: the commands' working folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, step: Step, before: Sequence[Step], outcomes: Mapping[str, Outcome]) -> Outcome | None:
        """Return the outcome of a step that succeeded before on the same inputs, else None."""
        path = self._path(step)
        if not path.is_file():
            return None
        kept = Outcome(**read_json(path))
        current = kept.status == OK and kept.key == self.key(step, before, outcomes)
        there = all((self.folder / out).exists() for out in kept.outs)
        return kept if current and there else None

    def key(self, step: Step, before: Sequence[Step], outcomes: Mapping[str, Outcome]) -> str:
        """Return the digest of all that a step depends on."""
        made = {out: sha for other in before for out, sha in outcomes[other.name].outs.items()}
        read = {}
        for dep in step.deps:
            sources = {out: sha for out, sha in made.items() if inside(dep, out)}
            read[dep] = sources or digest(self.folder / dep)
        return sha256_json({"cmd": step.cmd, "params": step.params, "read": read})

    def begin(self, step: Step) -> None:
        """Remove the outcome of a step before its outputs change: it must not outlive them."""
        self._path(step).unlink(missing_ok=True)

    def keep(self, step: Step, outcome: Outcome) -> None:
        """Store the outcome of a step."""
        write_json(self._path(step), asdict(outcome))

    def _path(self, step: Step) -> Path:
        return self.folder / "steps" / f"{step.name}.json"


class Runner:
    """Runs steps in a folder that is laid out like the repository.

    Args:
        folder: the commands' working folder, with ``stages/``, ``src/`` and everything else that they read.
        time_limit_s: a step that takes longer fails.
        records: which steps need not run; by default ``Records`` in the folder.
        execution: where the steps run.
        environment: added to the environment of the steps.
        resources: what a step occupies.
        logs: folder for the output of the steps; by default ``logs`` in the folder.
    """

    def __init__(
        self,
        folder: Path,
        time_limit_s: float,
        records: Any = None,
        execution: Execution | None = None,
        environment: Mapping[str, str] = ENVIRONMENT,
        resources: Callable[[Step], Resources] = lambda _: Resources(),
        logs: Path | None = None,
    ) -> None:
        self.folder = folder
        self.time_limit_s = time_limit_s
        self.records = records or Records(folder)
        self.execution = execution or Local()
        self.environment = environment
        self.resources = resources
        self.logs = logs or folder / "logs"

    def run(
        self,
        steps: Sequence[Step],
        before: Mapping[str, tuple[Step, ...]],
        *,
        processes: int,
        report: Callable[[Step, Outcome, bool], None],
    ) -> dict[str, Outcome]:
        """Run ``steps`` in their order, each once the steps before it have succeeded.

        Args:
            steps: in dependency order.
            before: for each step the steps that write what it reads.
            processes: number of parallel steps.
            report: called for each step with its outcome and whether it was run now.

        Returns:
            The outcome of each step by name.
        """
        outcomes: dict[str, Outcome] = {}
        waiting = list(steps)
        running: dict[Future[Outcome], Step] = {}

        def settle(step: Step, outcome: Outcome, ran: bool) -> None:
            outcomes[step.name] = outcome
            report(step, outcome, ran)

        with ThreadPoolExecutor(processes) as pool, self._stopping_on_errors():
            while waiting or running:
                for step in list(waiting):
                    needs = [outcomes.get(other.name) for other in before[step.name]]
                    if any(need is None for need in needs):
                        continue
                    known = self._without_running(step, before[step.name], outcomes)
                    if known is not None:
                        settle(step, known, False)
                    elif len(running) < processes:
                        key = self.records.key(step, before[step.name], outcomes)
                        running[pool.submit(self._run, step, key)] = step
                    else:
                        continue
                    waiting.remove(step)
                done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), None)
                for future in done:
                    settle(running.pop(future), future.result(), True)
        return outcomes

    def _without_running(
        self, step: Step, before: Sequence[Step], outcomes: Mapping[str, Outcome]
    ) -> Outcome | None:
        """Return the outcome of a step that is blocked or succeeded before on the same inputs, else None."""
        lacking = [other for other in before if outcomes[other.name].status != OK]
        if lacking:
            cause = outcomes[lacking[0].name]
            blocked = cause.status == BLOCKED
            return Outcome("", BLOCKED, cause.reason if blocked else f"{lacking[0].stage}: {cause.reason}")
        known: Outcome | None = self.records.recall(step, before, outcomes)
        return known

    def _run(self, step: Step, key: str) -> Outcome:
        log = self.logs / f"{step.name}.log"
        self.records.begin(step)
        start = time.monotonic()
        command = Command(
            self._arguments(step), self.folder.resolve(), log.resolve(), self.environment, self.time_limit_s
        )
        try:
            ended = self.execution.run(command, self.resources(step))
            status, reason = status_of_exit(ended.code, log, ended.late)
            outcome = Outcome(
                key,
                status,
                reason,
                round(time.monotonic() - start, 1),
                ended.cpu_seconds,
                ended.peak_bytes,
                {out: digest(self.folder / out) for out in step.outs} if status == OK else {},
            )
        except (
            DetexportError
        ) as error:  # of this step alone: no machine has what it needs, an output is missing
            outcome = Outcome(key, FAILED, str(error), round(time.monotonic() - start, 1))
        self.records.keep(step, outcome)
        return outcome

    def _arguments(self, step: Step) -> tuple[str, ...]:
        python, *script = shlex.split(step.cmd)
        if python != "python":
            raise DataError(
                f"the stage {step.stage} is not a Python script",
                got=step.cmd,
                expected="python stages/NAME.py ...",
                remedy="correct its cmd in dvc.yaml",
            )
        without = ["-c", WITHOUT, "detexport.modeling"] if step.stage in WITHOUT_MODELS else []
        return (*without, *script)

    @contextmanager
    def _stopping_on_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.execution.stop()
            raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which the system releases when the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lock").touch()
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock", wait=False))
        except BlockingIOError as error:
            raise ConfigError(
                "another run is at work in this folder",
                got=folder,
                remedy="wait for it, or choose another folder",
            ) from error
        yield


def status_of_exit(code: int, log: Path, late: bool) -> tuple[str, str]:
    """Return status and reason of a step from its exit code and its log."""
    if code == 0:
        return OK, ""
    lines = [line.strip() for line in log.read_text(errors="replace").replace("\r", "\n").splitlines()]
    messages = [line for line in lines if line.startswith("error: ")] or [line for line in lines if line]
    reason = messages[-1].removeprefix("error: ") if messages else "it printed nothing"
    if late:
        reason = f"it ran longer than allowed; its last line: {reason}"
    elif code < 0:
        reason = f"ended by {signal.Signals(-code).name}; its last line: {reason}"
    return (UNAVAILABLE if code == os.EX_UNAVAILABLE else FAILED), reason


def digest(path: Path) -> str:
    """Return the digest of a file or folder that a step reads.

    Raises:
        DataError: it is missing.
    """
    if not path.exists():
        raise DataError(f"{path} is missing", remedy="restore it; a stage of dvc.yaml reads it")
    return sha256_tree(path)
