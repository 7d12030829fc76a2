"""The interface of the execution engines, and ``Local``, the engine of this machine.

The engine decides only where the work runs; the results do not depend on it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

END_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Program that replaces itself by its arguments, and that Linux kills when its parent thread ends."""


@dataclass(frozen=True)
class Resources:
    """The resources that a command reserves while it runs.

    Args:
        cpus: number of CPUs.
        gpus: number of GPUs.
        alone: whether it reserves all CPUs of its machine, as a measurement of time does.
    """

    cpus: int = 1
    gpus: int = 0
    alone: bool = False


@dataclass(frozen=True)
class Command:
    """A Python script with its arguments and working folder.

    Args:
        arguments: the script and its arguments.
        folder: its working folder, the same path on every machine of the engine.
        log: the file that receives its output.
        environment: variables that are added to those of the machine; None removes one.
        time_limit_s: a program that runs longer is killed.
    """

    arguments: tuple[str, ...]
    folder: Path
    log: Path
    environment: Mapping[str, str | None]
    time_limit_s: float


@dataclass(frozen=True)
class CommandResult:
    """The outcome of a command.

    Args:
        code: its exit code; negative for a signal.
        cpu_seconds: CPU time.
        peak_bytes: peak memory.
        late: whether it was killed at its time limit.
    """

    code: int
    cpu_seconds: float
    peak_bytes: int
    late: bool


class Execution(Protocol):
    """An execution engine; ``engine`` of ``params.yaml`` selects one."""

    def map(
        self, start: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, gpus: int = 0
    ) -> Iterator[Result]:
        """Yield the result of each item, in the order of the items.

        Args:
            start: called once by each worker, or on a cluster once per shard of the items. It returns the
                function that is applied to the items, whose results must not depend on the shards.
            items: the items; they, ``start`` and the results must be picklable.
            gpus: number of GPUs that a worker needs.

        Raises:
            Exception: raised by ``start`` or its function, after the results of the items before.
        """
        ...

    def run(self, command: Command, resources: Resources) -> CommandResult:
        """Run a command and wait until it ends; thread-safe."""
        ...

    def stop(self) -> None:
        """Kill all commands that run, with their child processes."""
        ...


@dataclass(frozen=True)
class Local:
    """The engine of this machine: items in this process, commands in child processes."""

    _running: set[int] = field(default_factory=set, init=False, compare=False, repr=False)
    _places: "_Places" = field(default_factory=lambda: _Places(), init=False, compare=False, repr=False)

    def map(
        self, start: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, gpus: int = 0
    ) -> Iterator[Result]:
        """Yield the result of each item, computed lazily in this process."""
        if items:
            yield from map(start(), items)

    def run(self, command: Command, resources: Resources) -> CommandResult:
        """Run a command in a process; the caller limits how many run at a time.

        One that is alone waits until no other runs, and the others wait for its end.
        """
        with self._places.take(alone=resources.alone):
            return run_command(command, self._running)

    def stop(self) -> None:
        """Kill all commands that run, with their child processes."""
        for pid in tuple(self._running):
            kill(pid)


class _Places:
    """Lets commands run side by side, or one of them alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0
        self._waiting_alone = 0
        self._alone = False

    @contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Hold a place in the block; first wait for it. A command that is alone goes first."""
        with self._changed:
            self._waiting_alone += alone
            self._changed.wait_for(
                lambda: not self._alone and not (self._taken if alone else self._waiting_alone)
            )
            self._waiting_alone -= alone
            self._alone = alone
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._taken -= 1
                self._changed.notify_all()


def run_command(command: Command, running: set[int] | None = None) -> CommandResult:
    """Run a command as a session leader, which is killed when the calling thread ends.

    Args:
        command: the command.
        running: holds its process id while it runs.
    """
    running = set() if running is None else running
    command.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **command.environment}
    with command.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", END_WITH_PARENT, *command.arguments],
            cwd=command.folder,
            env={name: value for name, value in environment.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running.add(process.pid)
    late = threading.Event()

    def end() -> None:
        late.set()
        kill(process.pid)

    timer = threading.Timer(command.time_limit_s, end)
    timer.start()
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except BaseException:  # the wait was interrupted
        kill(process.pid)
        raise
    finally:  # the system gives the id to another process only after wait4
        timer.cancel()
        timer.join()
        running.discard(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = round(usage.ru_utime + usage.ru_stime, 1)
    return CommandResult(process.returncode, seconds, usage.ru_maxrss * 1024, late.is_set())


def kill(pid: int) -> None:
    """Kill a session leader and all processes of its session."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
