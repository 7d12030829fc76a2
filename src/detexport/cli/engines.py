"""Which runtime an artifact is run by."""

from pathlib import Path

from detexport.artifact import read_artifact
from detexport.runtime import Engine, default_engine
from detexport.targets import find_target


def engine_of(artifact_dir: Path, target: str) -> Engine:
    """The target's runtime, or that of the artifact's format."""
    if not target:
        return default_engine(read_artifact(artifact_dir).format)
    engine: Engine = find_target(target).runtime.build()
    return engine
