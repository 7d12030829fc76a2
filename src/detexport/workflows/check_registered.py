"""Check whether the versions that the stage ``register`` recorded are in the registry.

MLflow is imported only to ask a server, or if a version is missing: `make repro` checks at every start.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detexport.registry.location import (
    ADDRESS,
    DATABASE,
    find_workspace,
    own_store_has,
    own_uri,
    selected_uri,
)
from detexport.registry.settings import RegistrySettings
from detexport.system.redaction import public_uri


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
    uri, versions = selected_uri(workspace, settings.tracking_uri), receipts["registered"]
    if receipts["tracking_uri"] == own_uri(workspace) and not (workspace / DATABASE).is_file():
        return f"there is no {DATABASE}"
    if not versions:
        return ""
    if public_uri(uri) != receipts["tracking_uri"]:
        return f"the registry is {public_uri(uri)}, not {receipts['tracking_uri']}"
    if uri == own_uri(workspace) and own_store_has(
        workspace, {(one["name"], str(one["version"])) for one in versions}
    ):
        return ""
    return _missing_version(versions, workspace, settings)


def _missing_version(
    versions: Sequence[Mapping[str, Any]], workspace: Path, settings: RegistrySettings
) -> str:
    """Ask MLflow for each version; return the reason if one is missing."""
    from detexport.registry.registry import Registry
    from detexport.registry.store import open_store

    with open_store(workspace, tracking_uri=settings.tracking_uri, experiment=settings.experiment) as store:
        client = Registry(store).client
        for one in versions:
            found = client.search_model_versions(f"name = '{one['name']}'")
            if one["version"] not in {str(version.version) for version in found if ADDRESS in version.tags}:
                return f"the registry lacks {one['name']} version {one['version']}"
    return ""
