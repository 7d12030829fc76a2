"""The champions of a project's jobs, and the parity of a re-export with them.

Importing it takes seconds, since it imports MLflow.
"""

from collections.abc import Mapping
from pathlib import Path

from detexport.artifact import read_artifact
from detexport.config.params import PARAMS, load_values
from detexport.parity.settings import read_parity_settings
from detexport.registry.champions import Champion, champion_artifact, read_champions
from detexport.registry.location import find_workspace
from detexport.registry.settings import read_registry_settings
from detexport.targets.table import targets
from detexport.workflows.register import to_jobs
from detexport.workflows.validate_against import validate_against

MODELS, DATA = Path("outputs/models"), Path("data")


def champions_of_jobs() -> dict[str, Champion]:
    """Return the champions of the project's jobs, by the job's name.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    return read_champions(load_values("jobs"), read_registry_settings(PARAMS), find_workspace())


def compare_reexports(champions: Mapping[str, Champion]) -> dict[str, tuple[str, ...]]:
    """Compare each artifact that was exported again from its champion's own model with the champion.

    The pipeline compares an artifact with the eager model, which a new version of torch may change together
    with it. An artifact that failed its own validation is left out.

    Returns:
        For each compared job in what the artifacts differ on validation images and edge cases; empty if they
        agree within the tolerances.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    jobs = to_jobs(MODELS, *map(load_values, ("jobs", "targets", "conversions", "models")))
    found = {}
    for job in jobs:
        champion, (_, faults) = champions.get(job.name), job.evaluate()
        if champion and not faults and champion.is_reexported_as(read_artifact(job.artifact_dir)):
            with champion_artifact(champion, read_registry_settings(PARAMS), find_workspace()) as other:
                found[job.name] = _differences(job.artifact_dir, other, job.target)
    return found


def _differences(artifact_dir: Path, champion_dir: Path, target: str) -> tuple[str, ...]:
    """Compare two artifacts; a target that only the project knows runs in the format's runtime."""
    known = target if target in targets() else ""
    report = validate_against(
        artifact_dir,
        champion_dir,
        data=DATA / load_values("data.name"),
        target=known,
        other_target=known,
        settings=read_parity_settings(PARAMS),
    )
    return tuple(report.reasons)
