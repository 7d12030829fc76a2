"""Ray as an execution engine: a local Ray instance, or a cluster.

Every machine of a cluster needs the same environment, and the project in the same folder, as on a shared file
system.
"""

import logging
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from detexport.errors import BROKEN, ConfigError, DetexportError, RuntimeUnavailableError, listed
from detexport.execution.engine import Command, CommandResult, Resources, run_command
from detexport.system.child_process import Raised
from detexport.system.extras import extra_imports

with extra_imports():
    import ray
    from ray import cloudpickle

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARDS_PER_WORKER = 4
"""Shards per worker if there are few items, so that all workers end at about the same time."""
STARTS = 3
CONNECT_S = 10.0
CLUSTER = "DETEXPORT_RAY_CLUSTER"
"""Environment variable with the address of the cluster that runs a command, for the command's own tasks."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 sends first (RFC 9113), with an empty SETTINGS frame; a server answers alike."""
FRAME_HEADER, FRAME_TYPE, SETTINGS_FRAME = 9, 3, b"\x04"
"""Length of a frame's header, position of its type in it, and the type of SETTINGS."""
TIMED_OUT = "timed out during startup"
MARK_BYTES = 1
"""Of the memory that Ray counts, what each command occupies, so that one that occupies all is alone."""
KILLED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.NodeDiedError,
)
"""What Ray raises if the worker of a task ended at each try."""


@dataclass(frozen=True)
class Setting:
    """The settings that a worker copies from the process that submitted its task.

    Args:
        folder: the current folder.
        environment: variables that the number of threads depends on; None for one that is not set.
    """

    folder: str
    environment: Mapping[str, str | None]

    @classmethod
    def of_this_process(cls) -> "Setting":
        """Return the setting of this process."""
        return cls(str(Path.cwd()), {name: os.environ.get(name) for name in THREADS})

    @property
    def threads(self) -> int:
        """The number of threads that a process computes with: OMP_NUM_THREADS, by default one per CPU.

        Raises:
            ConfigError: the variable is no number.
        """
        given = self.environment[THREADS[0]] or str(len(os.sched_getaffinity(0)))
        if not given.isdecimal() or int(given) < 1:
            raise ConfigError(
                f"{THREADS[0]} cannot be used", got=given, expected="a number of threads", remedy="correct it"
            )
        return int(given)


class WorkerError(DetexportError):
    """A worker ended each time that a task was tried, or Ray itself failed."""

    exit_code = BROKEN


@dataclass(frozen=True)
class Ray:
    """An execution engine of Ray tasks; a task whose worker was killed is retried.

    Args:
        address: address of a cluster, as in ``ray.init``. None: the environment variable ``RAY_ADDRESS``; if
            it is not set, a local Ray instance is started, which ends with this process.
        cpus: CPUs of a local Ray instance; None for all.
        memory_mb: size of its object store in MiB; None for Ray's default.
        shard_items: largest number of items per task of ``map``.
        retries: retries of a task whose worker was killed.
    """

    address: str | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    shard_items: int = 16
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a number is out of range.
        """
        least = {"cpus": 1, "memory_mb": 80, "shard_items": 1, "retries": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(
                    f"engine.{name} is out of range",
                    got=value,
                    expected=f"{lowest} or more",
                    remedy=f"-S engine.{name}={lowest}",
                )

    def map(
        self, start: Callable[[], Callable[[Item], Result]], items: Sequence[Item], *, gpus: int = 0
    ) -> Iterator[Result]:
        """Yield the result of each item, in order; each shard of the items is a task. See ``Execution.map``.

        A worker uses as many threads as this process (OMP_NUM_THREADS, by default one per CPU), since the
        order of sums, and with it the last bits, may depend on their number. A task reserves one CPU per
        thread.
        """
        if not items:
            return
        self.connect()
        setting = Setting.of_this_process()
        needs = Needs.of_a_worker(setting, gpus)
        workers = needs.room()
        task = ray.remote(_run_shard).options(
            **needs.options(), max_retries=self.retries, scheduling_strategy="SPREAD"
        )
        payload = ray.put(cloudpickle.dumps(start))
        size = min(self.shard_items, -(-len(items) // (SHARDS_PER_WORKER * workers)))
        shards = (items[index : index + size] for index in range(0, len(items), size))
        # Pickled here, so that the worker imports nothing for them before it has entered the setting.
        tasks = (task.remote(payload, cloudpickle.dumps(shard), setting) for shard in shards)
        waiting = deque(islice(tasks, SHARDS_PER_WORKER * workers))
        try:
            while waiting:
                results, error = result_of(partial(ray.get, waiting[0]))
                waiting.popleft()
                waiting.extend(islice(tasks, 1))
                yield from results
                if error is not None:
                    raise error
        finally:
            for shard in waiting:
                with suppress(Exception):  # Ray may have ended
                    ray.cancel(shard, force=True)

    def run(self, command: Command, resources: Resources) -> CommandResult:
        """Run a command on a machine with these resources: ``cpus`` for each thread that it computes with.

        Raises:
            RuntimeUnavailableError: no machine of the cluster has them.
            WorkerError: its worker was killed at every try.
        """
        self.connect()
        environment = {**Setting.of_this_process().environment, **command.environment}
        threads = Setting(str(command.folder), environment).threads
        needs = Needs(resources.cpus * threads, resources.gpus, MARK_BYTES)
        if resources.alone:
            needs = needs.alone()
        needs.room()
        task = ray.remote(_run_command).options(
            **needs.options(), max_retries=self.retries, scheduling_strategy="SPREAD"
        )
        command = replace(command, environment=environment)
        submitted = task.remote(command, ray.get_runtime_context().gcs_address)
        ended: CommandResult = result_of(partial(ray.get, submitted))
        return ended

    def cpus_of_the_cluster(self) -> int:
        """Return the number of CPUs of all machines."""
        self.connect()
        return int(ray.cluster_resources().get("CPU", 1))

    def stop(self) -> None:
        """Disconnect from Ray; running commands are killed with their workers."""
        ray.shutdown()

    def connect(self) -> None:
        """Connect to the cluster or start a local Ray instance, unless this process is connected.

        Raises:
            ConfigError: the cluster cannot be reached.
        """
        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get(CLUSTER) or self.address or os.environ.get("RAY_ADDRESS") or "local"
        if address == "local":
            self._start()
            return
        try:
            _require_listener(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                "the Ray cluster cannot be reached",
                got=f"{address}: {error.__cause__ or error}",
                expected="the address of a running cluster with the same versions of Ray and Python",
                remedy="correct engine.address or RAY_ADDRESS; if the cluster requires a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN",
            ) from error

    def _start(self) -> None:
        """Start a local Ray instance; try again if Ray's own time limit for the start expired.

        On a busy machine a process of Ray may take longer than the limit, which cannot be changed:
        https://github.com/ray-project/ray/issues/65983
        """
        memory = self.memory_mb * 2**20 if self.memory_mb else None
        for start in range(1, STARTS + 1):
            try:
                ray.init(
                    "local",
                    num_cpus=self.cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=memory,
                )
                return
            except Exception as error:  # Ray raises the base class itself
                if TIMED_OUT not in str(error) or start == STARTS:
                    raise
                ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise OSError unless a server of gRPC listens at a cluster's address: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(HTTP2_PREFACE)
            if connection.recv(FRAME_HEADER)[FRAME_TYPE:][:1] != SETTINGS_FRAME:
                raise ConnectionError("the server there is not Ray's")


@dataclass(frozen=True)
class Needs:
    """What a task occupies on its machine.

    Args:
        cpus: CPUs.
        gpus: GPUs.
        memory: of the memory that Ray counts, in bytes; it limits nothing.
    """

    cpus: int
    gpus: int
    memory: int = 0

    @classmethod
    def of_a_worker(cls, setting: Setting, gpus: int) -> "Needs":
        """Return what a worker of ``map`` occupies: a CPU for each thread, or its GPUs with one CPU."""
        return cls(1 if gpus else setting.threads, gpus)

    def alone(self) -> "Needs":
        """Return what leaves no room for another task or command on the largest machine that has its GPUs.

        A command that waits for others occupies no CPU, but it runs on its machine: hence the memory.
        """
        fitting = [one for one in _machines() if one.get("GPU", 0) >= self.gpus]
        largest = max(fitting, key=lambda one: float(one.get("CPU", 0)), default={})
        cpus = max(self.cpus, int(largest.get("CPU", 0)))
        return Needs(cpus, self.gpus, int(largest.get("memory", MARK_BYTES)))

    def options(self) -> dict[str, Any]:
        """Return the options of Ray's task or actor."""
        memory = {"memory": self.memory} if self.memory else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, **memory}

    def room(self) -> int:
        """Return how many such tasks the cluster runs at a time.

        Raises:
            RuntimeUnavailableError: none, so that Ray would wait without an end.
        """
        needed = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        needed = {name: number for name, number in needed.items() if number}
        machines = _machines()
        room = sum(
            min((int(one.get(name, 0) // number) for name, number in needed.items()), default=1)
            for one in machines
        )
        if room:
            return room
        raise RuntimeUnavailableError(
            "no machine of the Ray cluster can run the task",
            got=listed(f"{one.get('CPU', 0):g} CPUs and {one.get('GPU', 0):g} GPUs" for one in machines),
            expected=f"a machine with {self.cpus} CPUs and {self.gpus} GPUs",
            remedy=f"add such a machine, or set {THREADS[0]} to fewer threads: each occupies a CPU",
        )


def _machines() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def result_of(get: Callable[[], Any]) -> Any:
    """Return what ``get`` does, which waits for a task.

    Raises:
        Exception: what the task raised.
        WorkerError: its worker was killed at each try, or Ray failed.
    """
    try:
        return get()
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except KILLED as error:
        raise WorkerError(
            "a Ray worker was killed at every try of its task",
            got=type(error).__name__,
            expected="enough memory on each machine for the runtime and the largest input",
            remedy="see Ray's logs, give a machine fewer CPUs, or raise engine.retries",
        ) from error
    except ray.exceptions.RayError as error:
        raise WorkerError(
            "Ray failed",
            got=f"{type(error).__name__}: {error}",
            expected="a cluster that runs until the end",
            remedy="see Ray's logs, and run the command again: it continues",
        ) from error


def _run_shard(payload: bytes, shard: bytes, setting: Setting) -> tuple[list[Any], Exception | None]:
    """Return the results of the items of a pickled shard before the first that raised, and its exception."""
    results: list[Any] = []
    try:
        enter(setting)
        results.extend(map(started(payload)(), cloudpickle.loads(shard)))
    except Exception as error:
        return results, portable(error)
    return results, None


@lru_cache(maxsize=1)
def started(payload: bytes) -> Callable[[], Callable[[Any], Any]]:
    """Unpickle ``start``; cached, so that all shards of this process share its open artifact."""
    start: Callable[[], Callable[[Any], Any]] = cloudpickle.loads(payload)
    return start


def portable(error: Exception) -> Exception:
    """Return a picklable exception of the same class and message, if possible."""
    if isinstance(error, DetexportError):
        return Raised.of(error).error()
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return Raised.of(error).error()
    return error if (type(copy), str(copy)) == (type(error), str(error)) else Raised.of(error).error()


def _run_command(command: Command, address: str) -> CommandResult:
    """Run a command with the address of this cluster in its environment."""
    _change_to(str(command.folder))
    environment = {**command.environment, CLUSTER: address}
    return run_command(replace(command, environment=environment))


def enter(setting: Setting) -> None:
    """Apply the settings of the submitting process; call it before a runtime reads the number of threads."""
    _change_to(setting.folder)
    for name, value in setting.environment.items():
        os.environ.pop(name, None)  # Ray sets the number of threads to that of the task's CPUs
        if value is not None:
            os.environ[name] = value


def _change_to(folder: str) -> None:
    """Change into the project's folder.

    Raises:
        ConfigError: this machine does not have it.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"the machine {os.uname().nodename} does not have the project",
            got=f"{folder}: {error.strerror}",
            expected="the project in the same folder on every machine of the cluster",
            remedy="mount it there, for example from a shared file system",
        ) from error
