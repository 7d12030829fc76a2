"""Register: artifacts that passed become versions in the model registry; others are refused with reasons."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detexport.registry.jobs import Job, register_jobs
from detexport.registry.location import find_workspace
from detexport.registry.settings import RegistrySettings

DVC_EXPERIMENT = "DVC_EXP_NAME"
"""Variable that ``dvc exp run`` sets for its stages, in the workspace as in a queue's clone."""


def register(
    models_dir: Path,
    jobs: Mapping[str, Mapping[str, str]],
    targets: Mapping[str, Mapping[str, Any]],
    conversions: Mapping[str, Mapping[str, str]],
    models: Mapping[str, Mapping[str, Any]],
    registry: Mapping[str, Any],
    data_statistics: Mapping[str, Any],
) -> dict[str, Any]:
    """Register the jobs that passed, with the commit of the current checkout.

    Args:
        models_dir: the pipeline's folders, one per model.
        jobs: the model, the target and the artifact of each job.
        targets: the runtime of each target.
        conversions: the source of each converted artifact, by ``MODEL-ARTIFACT``.
        models: the models' parameters; ``license`` is that of the weights, if it is known.
        registry: the store and what is a release, see ``RegistrySettings.of``.
        data_statistics: of the data set, see ``describe_labels``; the next retraining compares its data with
            them.

    Returns:
        See ``register_jobs``.

    Raises:
        RegistryError: the registry cannot be reached, or refuses.
    """
    return register_jobs(
        to_jobs(models_dir, jobs, targets, conversions, models),
        workspace=find_workspace(),
        checkout=Path.cwd(),
        settings=RegistrySettings.of(registry),
        dvc_experiment=os.environ.get(DVC_EXPERIMENT, ""),
        data_statistics=data_statistics,
    )


def to_jobs(
    models_dir: Path,
    jobs: Mapping[str, Mapping[str, str]],
    targets: Mapping[str, Mapping[str, Any]],
    conversions: Mapping[str, Mapping[str, str]],
    models: Mapping[str, Mapping[str, Any]],
) -> list[Job]:
    """Return the jobs of the parameters, with the paths of their results; see ``register``."""
    return [
        Job(
            name,
            **job,
            runtime=dict(targets[job["target"]]["runtime"]),
            folder=models_dir / job["model"],
            made_by=tuple(_made_by(job["model"], job["artifact"], conversions)),
            license=models[job["model"]].get("license") or "",
        )
        for name, job in jobs.items()
    ]


def _made_by(model: str, artifact: str, conversions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the stages that made an artifact, the export first."""
    conversion = conversions.get(f"{model}-{artifact}")
    if conversion is None:
        return [f"export@{model}-{artifact}"]
    return [*_made_by(model, conversion["source"], conversions), f"convert@{model}-{artifact}"]
