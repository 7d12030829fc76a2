"""Load an artifact, from a folder or from MLflow, as a callable detector."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, read_artifact
from detexport.errors import ArtifactError, shown
from detexport.predictions.detector import Detector
from detexport.runtime import DEFAULT_ENGINES, Engine
from detexport.system.extras import extra_imports
from detexport.system.progress import Step, silent
from detexport.targets.component import Component
from detexport.workflows.choose_runtime import engine_of

REGISTRY_URI = re.compile(r"(models|runs):/")


def load(source: str | Path, *, target: str = "", device: str = "cpu") -> Detector:
    """Load an artifact as a detector: ``detexport.load("model_onnx")("photo.jpg").boxes``.

    An ONNX or OpenVINO artifact is loaded and run without torch.

    Args:
        source: the folder that an export wrote; or ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or
            ``runs:/RUN_ID/PATH`` in the MLflow store that ``MLFLOW_TRACKING_URI`` or
            ``mlflow.set_tracking_uri`` names.
        target: run the artifact as this target, such as ``openvino_bf16``; by default in the runtime that it
            was registered with, or in that of its format.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``; there is no silent fallback.

    Returns:
        A detector; ``Detector.__call__`` describes its inputs and outputs.

    Raises:
        ArtifactError: the folder is not an artifact, its files were changed, or the runtime refuses it.
        ConfigError: there is no such target, or it does not run artifacts of this format.
        MissingPackageError: the runtime, or MLflow, is not installed; the message names the extra.
        RegistryError: the MLflow store cannot be reached, or has no such model.
        RuntimeUnavailableError: the device is not on this machine.
    """
    with found(source, target) as (folder, engine):
        return Detector(engine.open(folder, device))


@contextmanager
def found(source: str | Path, target: str, step: Step = silent) -> Iterator[tuple[Path, Engine]]:
    """Yield the folder of an artifact and its runtime; a registered one is downloaded for the block.

    Args:
        source: as for ``load``.
        target: as for ``load``.
        step: reports the download of a registered one.
    """
    if not is_registered(source):
        folder = Path(source)
        yield folder, engine_of(folder, target)
        return
    with extra_imports():
        from detexport.registry.download import downloaded
    with downloaded(str(source), step) as stored:
        yield (
            stored.folder,
            registered_engine(read_artifact(stored.folder), stored.runtime)
            if stored.runtime and not target
            else engine_of(stored.folder, target),
        )


def is_registered(source: str | Path) -> bool:
    """Return whether a source names a model in MLflow, not a folder."""
    return isinstance(source, str) and REGISTRY_URI.match(source) is not None


def registered_engine(artifact: Artifact, runtime: dict[str, Any]) -> Engine:
    """Build the runtime that a model was registered with, which must be the format's own class.

    Raises:
        ArtifactError: the runtime does not belong to the format, or has other options.
    """
    expected = Component(DEFAULT_ENGINES[artifact.format])
    path, options = runtime.get("_target_"), {k: v for k, v in runtime.items() if k != "_target_"}
    if path != expected.path or not options.keys() <= expected.declared_options().keys():
        raise ArtifactError(
            "the registered model names a runtime that this version of detexport does not have",
            got=shown(runtime),
            expected=f"{expected.path} with options of {', '.join(expected.declared_options())}",
            remedy="give a target, or register the model again",
        )
    engine: Engine = expected.build(**options)
    return engine
