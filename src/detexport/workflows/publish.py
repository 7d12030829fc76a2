"""Publish: the report becomes an artifact of each run that the pipeline logged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detexport.registry.location import find_workspace
from detexport.registry.log_report import log_report
from detexport.registry.registry import Registry
from detexport.registry.settings import RegistrySettings
from detexport.registry.store import open_store
from detexport.system.digests import sha256_file
from detexport.system.files import read_json


def publish_report(registered: Path, report: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """Store the report with the runs of the registered jobs and of the experiments.

    Args:
        registered: the file that the stage ``register`` writes.
        report: the HTML file.
        section: the section ``registry`` of the parameters, see ``RegistrySettings.of``.

    Returns:
        ``{"report_sha256", "runs": {JOB: run id}}``. A second run returns the same.

    Raises:
        RegistryError: the registry cannot be reached, or refuses a request.
    """
    receipts = read_json(registered)
    logged = [*receipts["registered"], *receipts["experiments"]]
    runs = {}
    if logged:
        settings = RegistrySettings.of(section)
        with open_store(
            find_workspace(), tracking_uri=settings.tracking_uri, experiment=settings.experiment
        ) as store:
            runs = {one["job"]: log_report(Registry(store), one, report) for one in logged}
    return {"report_sha256": sha256_file(report), "runs": runs}
