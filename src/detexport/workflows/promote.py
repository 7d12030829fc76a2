"""Promote registered versions to ``champion``, and roll back: for the stage and the command line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detexport.registry.location import find_workspace
from detexport.registry.promotion import Decision, Promotion
from detexport.registry.registry import Registry
from detexport.registry.settings import RegistrySettings, read_registry_settings
from detexport.registry.store import open_store
from detexport.system.files import read_json

PARAMS = Path("params.yaml")
EXPERIMENT = "experiment"
"""The decision about a job that was not registered as a release."""


def promote_registered(registered: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """Decide about the versions that the pipeline registered.

    Args:
        registered: the file that the stage ``register`` writes.
        section: the section ``registry`` of the parameters, see ``RegistrySettings.of``.

    Returns:
        ``{"tracking_uri", "decisions": [{"job", "name", "version", "decision", "reasons", "numbers",
        "champion_before", "champion_after"}]}``. A second run returns the same unless the champion changed.

    Raises:
        RegistryError: the registry cannot be reached, or refuses a request.
    """
    receipts = read_json(registered)
    decisions = [
        {"job": one["job"], **Decision(one["name"], "", EXPERIMENT, (one["reason"],)).to_json()}
        for one in receipts["experiments"]
    ]
    if not receipts["registered"]:
        return {"tracking_uri": receipts["tracking_uri"], "decisions": decisions}
    with _opened(RegistrySettings.of(section)) as promotion:
        for one in receipts["registered"]:
            decision = promotion.promote_registered(one["name"], one["version"])
            decisions.append({"job": one["job"], **decision.to_json()})
        return {"tracking_uri": promotion.registry.store.public_uri, "decisions": decisions}


def promote(name: str, version: str | None = None) -> Decision:
    """Decide about one version of a registered model, with the settings of ``params.yaml``, if there is one.

    Args:
        name: the registered model.
        version: its number; None is the newest version.

    Raises:
        ConfigError: the registry has no such model or version.
        RegistryError: the registry cannot be reached, or refuses a request.
    """
    with _opened(read_registry_settings(PARAMS)) as promotion:
        return promotion.promote(name, version)


def rollback(name: str) -> Decision:
    """Move ``champion`` back to the version that had it before.

    Raises:
        ConfigError: the registry has no such model, or no earlier champion.
        RegistryError: the registry cannot be reached, or refuses a request.
    """
    with _opened(read_registry_settings(PARAMS)) as promotion:
        return promotion.rollback(name)


@contextmanager
def _opened(settings: RegistrySettings) -> Iterator[Promotion]:
    with open_store(
        find_workspace(), tracking_uri=settings.tracking_uri, experiment=settings.experiment
    ) as store:
        yield Promotion(Registry(store), settings)
