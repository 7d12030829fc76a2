"""Sessions of one artifact: one in this process, or one in each worker of an execution engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, TypeVar

from detexport.artifact import Artifact, read_artifact
from detexport.errors import RuntimeUnavailableError
from detexport.execution.engine import Execution
from detexport.runtime.session import Engine, Session

Item = TypeVar("Item")
Result = TypeVar("Result")


class UnopenedError(Exception):
    """The runtime cannot open the artifact; the message holds the full error."""


class Sessions(Protocol):
    """Sessions of one artifact.

    Attributes:
        artifact: the artifact's manifest.
    """

    @property
    def artifact(self) -> Artifact: ...  # noqa: D102

    def map(
        self, begin: Callable[[Session], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Yield the result of each item, in the order of the items: see ``Execution.map``.

        Args:
            begin: called with a session; returns the function that is applied to the items.
            items: the items.

        Raises:
            UnopenedError: the runtime cannot open the artifact.
        """
        ...


@dataclass(frozen=True)
class OneSession:
    """The session of this process.

    Args:
        session: the loaded artifact.
    """

    session: Session

    @property
    def artifact(self) -> Artifact:
        """The artifact's manifest."""
        return self.session.artifact

    def map(
        self, begin: Callable[[Session], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Yield the result of each item, computed lazily."""
        return map(begin(self.session), items)


@dataclass(frozen=True)
class WorkerSessions:
    """Sessions in the workers of an execution engine; a worker opens the artifact at its first item.

    Args:
        execution: the engine.
        runtime: opens the artifact.
        artifact_dir: the artifact, in a folder that every worker has.
    """

    execution: Execution
    runtime: Engine
    artifact_dir: Path

    @cached_property
    def artifact(self) -> Artifact:
        """The artifact's manifest."""
        return read_artifact(self.artifact_dir)

    @cached_property
    def _opening(self) -> "_Opening":
        return _Opening(self.runtime, self.artifact_dir)

    def map(
        self, begin: Callable[[Session], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Yield the result of each item; one worker at least opens the artifact if there are items."""
        device = str(getattr(self.runtime, "device", "cpu"))
        gpus = int(device.startswith("cuda"))
        return self.execution.map(partial(_begin, self._opening, begin), items, gpus=gpus)


@dataclass(frozen=True)
class _Opening:
    """Opens an artifact once in each process that it is sent to."""

    runtime: Engine
    artifact_dir: Path

    @cached_property
    def session(self) -> Session:
        try:
            return self.runtime.open(self.artifact_dir)
        except (RuntimeUnavailableError, MemoryError):
            raise
        except Exception as error:
            raise UnopenedError(f"cannot be opened: {type(error).__name__}: {error}") from error


def _begin(
    opening: _Opening, begin: Callable[[Session], Callable[[Item], Result]]
) -> Callable[[Item], Result]:
    return begin(opening.session)
