"""Check whether the versions that the stage ``register`` recorded are in the registry."""

from collections.abc import Mapping
from typing import Any

from detexport.registry.registry import ADDRESS, Registry
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import DATABASE, open_store
from detexport.workflows.register import find_workspace


def outdated_receipt(receipts: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """Return why the jobs must be registered again; empty if every recorded version is in the registry.

    They must if the registry is another one or lacks a version, for example in a clone, or if a job ran as a
    DVC experiment.

    Args:
        receipts: what the stage ``register`` wrote.
        section: the section ``registry`` of the parameters, see ``RegistrySettings.of``.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    if any(entry.get("dvc_experiment") for entry in receipts.get("experiments", ())):
        return "a job ran as a DVC experiment"
    settings, workspace = RegistrySettings.of(section), find_workspace()
    own = receipts["tracking_uri"] == f"sqlite:///{workspace / DATABASE}"
    if own and not (workspace / DATABASE).is_file():
        return f"there is no {DATABASE}"
    if not receipts["registered"]:
        return ""
    with open_store(workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment) as store:
        if store.public_uri != receipts["tracking_uri"]:
            return f"the registry is {store.public_uri}, not {receipts['tracking_uri']}"
        client = Registry(store).client
        for entry in receipts["registered"]:
            found = client.search_model_versions(f"name = '{entry['name']}'")
            if entry["version"] not in {str(version.version) for version in found if ADDRESS in version.tags}:
                return f"the registry lacks {entry['name']} version {entry['version']}"
    return ""
