"""Aliases of a registered model: ``challenger`` on the newest version, ``champion`` on the one in use."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.errors import ConfigError, listed

CHALLENGER, CHAMPION = "challenger", "champion"


@dataclass(frozen=True)
class Versions:
    """The versions of a registered model at one moment.

    Args:
        name: the registered model.
        by_number: the versions, by number.
        champion: the number that ``champion`` is on; None if it is on none.
    """

    name: str
    by_number: Mapping[int, ModelVersion]
    champion: int | None

    @property
    def newest(self) -> int:
        """The highest number."""
        return max(self.by_number)


def read_versions(client: mlflow.MlflowClient, name: str) -> Versions:
    """Read the versions of a registered model, then its alias.

    In this order: whoever moves the alias tags a version before it moves and again afterwards.

    Raises:
        ConfigError: the registry has no such model, or no version of it.
    """
    found = client.search_model_versions(f"name = '{name}'")
    if not found:
        raise ConfigError(
            f"the registry has no version of {name}",
            got=name,
            expected=f"one of {listed(model.name for model in client.search_registered_models()) or 'none'}",
            remedy="register it: run the pipeline with `dvc repro`",
        )
    champion = client.get_registered_model(name).aliases.get(CHAMPION)
    return Versions(name, {int(one.version): one for one in found}, int(champion) if champion else None)


def point_challenger(client: mlflow.MlflowClient, name: str) -> None:
    """Put ``challenger`` on the newest version, also if other processes register versions at the same time.

    Each process reads again after it has moved the alias, so the last one to move it sees all versions.
    """
    while True:
        newest = str(read_versions(client, name).newest)
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == newest:
            return
        move_alias(client, name, CHALLENGER, newest)


def move_alias(client: mlflow.MlflowClient, name: str, alias: str, version: str) -> bool:
    """Move an alias; return False if the version was deleted in the meantime."""
    try:
        client.set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
