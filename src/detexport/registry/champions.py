"""Read the champions of a project's jobs: what a new version is compared with."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from detexport.artifact import Artifact
from detexport.errors import ConfigError
from detexport.registry.aliases import read_versions
from detexport.registry.download import ARTIFACT_TAG, find_artifact
from detexport.registry.evidence import DATA_STATISTICS
from detexport.registry.registry import Registry, model_id_of
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import open_store
from detexport.system.files import read_json

MODEL_TAGS = ("detexport.weights_sha256", "detexport.config_sha256")


@dataclass(frozen=True)
class Champion:
    """A registered version with the alias ``champion``.

    Args:
        name: the registered model.
        version: the version's number.
        created_ms: when the version was created, in ms since 1970.
        artifact_sha256: the digest of its artifact.
        model_sha256: digests of the weights and of the configuration.
        data: statistics of the data that it was registered with; None if it has none.
        model_id: the id of its stored files.
    """

    name: str
    version: str
    created_ms: int
    artifact_sha256: str
    model_sha256: tuple[str, ...]
    data: Mapping[str, Any] | None
    model_id: str

    def is_reexported_as(self, artifact: Artifact) -> bool:
        """Return whether an artifact is another export of this version's model."""
        same_model = self.model_sha256 == (artifact.weights_sha256, artifact.config_sha256)
        return same_model and self.artifact_sha256 != artifact.sha256


def read_champions(names: Iterable[str], settings: RegistrySettings, workspace: Path) -> dict[str, Champion]:
    """Return the champions of registered models; a model without one is left out.

    Args:
        names: the registered models.
        settings: the registry.
        workspace: the folder that holds the registry, unless it is a server.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    with _opened(settings, workspace) as registry:
        found = (_champion(registry, name) for name in names)
        return {one.name: one for one in found if one}


@contextmanager
def champion_artifact(champion: Champion, settings: RegistrySettings, workspace: Path) -> Iterator[Path]:
    """Yield the folder of a champion's artifact.

    Args:
        champion: the version.
        settings: the registry.
        workspace: the folder that holds the registry, unless it is a server.

    Raises:
        ArtifactError: its files are missing.
        RegistryError: the registry cannot be reached.
    """
    with _opened(settings, workspace) as registry, registry.files(champion.model_id) as folder:
        yield find_artifact(folder, f"{champion.name} version {champion.version}").folder


@contextmanager
def _opened(settings: RegistrySettings, workspace: Path) -> Iterator[Registry]:
    with open_store(workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment) as store:
        yield Registry(store)


def _champion(registry: Registry, name: str) -> Champion | None:
    try:
        versions = read_versions(registry.client, name)
    except ConfigError:  # the registry has no such model yet
        return None
    if versions.champion is None or versions.champion not in versions.by_number:
        return None
    version = versions.by_number[versions.champion]
    return Champion(
        name,
        str(versions.champion),
        int(version.creation_timestamp),
        version.tags.get(ARTIFACT_TAG, ""),
        tuple(version.tags.get(tag, "") for tag in MODEL_TAGS),
        _data_statistics(str(version.run_id)),
        model_id_of(version),
    )


def _data_statistics(run_id: str) -> Mapping[str, Any] | None:
    """Return the statistics in a version's run; None if the run has none, or was deleted."""
    try:
        if DATA_STATISTICS not in {file.path for file in mlflow.MlflowClient().list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            path = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=DATA_STATISTICS, dst_path=temporary
            )
            found: Mapping[str, Any] = read_json(Path(path))
            return found
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
