"""Aliases of a registered model: ``challenger`` on the newest version, ``champion`` on the one in use."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detexport.errors import ConfigError, listed

CHALLENGER, CHAMPION = "challenger", "champion"
COLLISIONS = ("IntegrityError", "UniqueViolation", "duplicate key", "database is locked")
"""Words in the messages of MLflow's databases for two writes at once."""


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


def write(call: Callable[..., object], *arguments: object) -> None:
    """Write a tag, an alias, a parameter or a metric, again if another process wrote the same one just then.

    MLflow looks for the row and inserts it if there is none; of two that do so at once, the database refuses
    one. The second try finds the row.
    """
    for wait_s in (0.05, 0.1, 0.2, 0.4):
        try:
            call(*arguments)
            return
        except MlflowException as error:
            if not any(words in str(error) for words in COLLISIONS):
                raise
            time.sleep(wait_s)
    call(*arguments)


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
        write(client.set_registered_model_alias, name, alias, version)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
