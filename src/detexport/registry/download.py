"""The artifact of a registered model and the runtime that it was registered with."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.artifact import MANIFEST, read_artifact
from detexport.errors import ArtifactError, ConfigError, listed
from detexport.registry.store import explained_errors
from detexport.system.files import read_json
from detexport.system.process import redacted_output
from detexport.system.progress import Step, silent
from detexport.system.redaction import public_uri, redact

TARGET = "target.json"
ARTIFACT_TAG = "detexport.artifact_sha256"
MODEL_URI = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([^/@]+))")
"""A registered version: its name, and its number or an alias."""


@dataclass(frozen=True)
class StoredArtifact:
    """An artifact from MLflow, on this machine.

    Args:
        folder: as it was exported.
        runtime: the class of its runtime (``_target_``) and its options, as it was registered; empty for an
            artifact that was logged without one.
    """

    folder: Path
    runtime: dict[str, Any]


@contextmanager
def downloaded(uri: str, step: Step = silent) -> Iterator[StoredArtifact]:
    """Download an artifact for the duration of the block.

    Args:
        uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS`` or ``runs:/RUN_ID/PATH``, in the store that
            ``mlflow.set_tracking_uri`` or ``MLFLOW_TRACKING_URI`` names.
        step: reports the download.

    Raises:
        ConfigError: there is no such version or registry.
        RegistryError: the store cannot be reached.
        ArtifactError: what is stored there is not an artifact of detexport, or not the registered one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        with reading_registry():
            expected = _registered_sha256(uri)
            with step(f"download {uri}"):
                mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=temporary)
        stored = find_artifact(Path(temporary), uri)
        got = read_artifact(stored.folder).sha256
        if expected and got != expected:
            raise ArtifactError(
                f"{uri} does not hold the artifact that was registered",
                got=f"sha256 {got}",
                expected=f"{expected}, in the registry's tags",
                remedy=f"detexport verify {uri} shows what was changed; register the artifact again",
            )
        yield stored


@contextmanager
def reading_registry() -> Iterator[None]:
    """Explain the errors of reading from the registry that MLflow's settings name.

    Raises:
        ConfigError: it is a database file that does not exist; MLflow would create it.
        RegistryError: it cannot be reached.
    """
    store = mlflow.get_tracking_uri()
    path = store.removeprefix("sqlite:///")
    if path != store and not Path(path).exists():
        raise ConfigError(
            "there is no registry here",
            got=f"no {path}",
            expected="the database of an MLflow registry",
            remedy="run the command in the project's folder, or set MLFLOW_TRACKING_URI to the registry",
        )
    with redacted_output(), explained_errors(store, OSError):
        yield


def _registered_sha256(uri: str) -> str:
    """Return the digest of a registered version's artifact in the registry; empty if there is none."""
    match = MODEL_URI.fullmatch(uri)
    if match is None:
        return ""
    version = find_version(*match.groups())
    return str(version.tags.get(ARTIFACT_TAG, ""))


def find_version(name: str, number: str | None, alias: str | None) -> ModelVersion:
    """Return a version by its number or by an alias, with its tags.

    Raises:
        ConfigError: the registry has no such version.
    """
    client = mlflow.MlflowClient()
    try:
        found = client.get_model_version_by_alias(name, alias).version if alias else number
        return client.get_model_version(name, str(found))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ConfigError(
            f"the registry {public_uri(mlflow.get_tracking_uri())} has no such version",
            got=f"models:/{name}{f'@{alias}' if alias else f'/{number}'}: {redact(str(error))}",
            expected="the name of a registered model with one of its versions or aliases",
            remedy="correct it, or set MLFLOW_TRACKING_URI to the registry that has it",
        ) from error


def find_artifact(root: Path, uri: str) -> StoredArtifact:
    """Find the artifact in a registered model's files, or in a folder that a user logged."""
    found = sorted(path.parent for path in root.rglob(MANIFEST))
    if len(found) != 1:
        raise ArtifactError(
            f"{uri} holds {'several artifacts' if found else 'no artifact'} of detexport",
            got=listed(path.relative_to(root) for path in found or sorted(root.iterdir())) or "nothing",
            expected=f"one folder with {MANIFEST}",
            remedy="name a model that detexport registered, or the folder of one artifact",
        )
    target = next(root.rglob(TARGET), None)
    return StoredArtifact(found[0], read_json(target)["runtime"] if target else {})
