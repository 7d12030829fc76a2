"""Choose the runtime of an artifact."""

from dataclasses import dataclass
from pathlib import Path

from detexport.artifact import Artifact, read_artifact
from detexport.errors import ConfigError
from detexport.runtime import DEFAULT_ENGINES, Engine, Session, default_engine
from detexport.targets.table import Target, find_target, targets


@dataclass(frozen=True)
class OnDevice:
    """A runtime that opens artifacts on one device.

    Args:
        engine: the runtime.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
    """

    engine: Engine
    device: str

    def open(self, artifact_dir: Path, _device: str = "cpu") -> Session:
        """Load an artifact on the device; see ``Engine``."""
        return self.engine.open(artifact_dir, self.device)


def engine_of(artifact_dir: Path, target: str) -> Engine:
    """Return the target's runtime, or that of the artifact's format; see ``asked_target``."""
    artifact = read_artifact(artifact_dir)
    asked = asked_target(artifact, target)
    engine: Engine = asked.runtime.build() if asked else default_engine(artifact.format)
    return engine


def asked_target(artifact: Artifact, name: str) -> Target | None:
    """Return the target of a name; None if the name is empty.

    Raises:
        ConfigError: there is no such target, or it does not run artifacts of this format.
    """
    if not name:
        return None
    runtime = DEFAULT_ENGINES[artifact.format]
    target = find_target(name)
    if target.runtime.path != runtime:
        fitting = [other for other, one in targets().items() if one.runtime.path == runtime]
        raise ConfigError(
            f"the target {name} does not run artifacts of this format",
            got=artifact.format.value,
            expected=f"one of {', '.join(fitting)}",
            remedy="choose one, or leave --target out",
        )
    return target
