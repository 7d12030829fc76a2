"""The report as an artifact of the runs that a pipeline logged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detexport.registry.registry import Registry

FOLDER = "report"
"""The folder in a run's artifacts."""


def log_report(registry: Registry, receipt: Mapping[str, Any], report: Path) -> str:
    """Store the report with the run of one job; replace an earlier one.

    The report names the versions and the champion, so it is written after them. It is no file of the
    version: the version's provenance does not list it.

    Args:
        registry: the registry.
        receipt: the job's entry in the list of registered jobs or of experiments, see ``register_jobs``.
        report: the HTML file.

    Returns:
        The run's id.
    """
    run_id = receipt.get("run_id")
    if run_id is None:
        run_id = registry.client.get_model_version(receipt["name"], receipt["version"]).run_id
    registry.client.log_artifact(str(run_id), str(report), FOLDER)
    return str(run_id)
