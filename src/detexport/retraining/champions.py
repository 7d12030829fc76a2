"""The champions of a project's jobs, and the parity of a re-export with them.

Importing it takes seconds, since it imports MLflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detexport.artifact import read_artifact
from detexport.config.params import PARAMS, load_values
from detexport.errors import ArtifactError, RuntimeUnavailableError
from detexport.parity.settings import read_parity_settings
from detexport.registry.champions import Champion, champion_artifact, read_champions
from detexport.registry.location import find_workspace
from detexport.registry.settings import RegistrySettings, read_registry_settings
from detexport.system.child_process import call_in_child
from detexport.targets.table import targets
from detexport.workflows.register import to_jobs
from detexport.workflows.validate_against import validate_against

MODELS, DATA = Path("outputs/models"), Path("data")


@dataclass(frozen=True)
class Comparison:
    """The comparison of a re-export with its champion.

    Args:
        differences: in what their outputs differ; empty if they agree within the tolerances.
        not_compared: why the champion could not be run; empty if it was.
    """

    differences: tuple[str, ...] = ()
    not_compared: str = ""


def champions_of_jobs() -> dict[str, Champion]:
    """Return the champions of the project's jobs, by the job's name.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    return read_champions(load_values("jobs"), read_registry_settings(PARAMS), find_workspace())


def compare_reexports(champions: Mapping[str, Champion]) -> dict[str, Comparison]:
    """Compare each artifact that was exported again from its champion's own model with the champion.

    The pipeline compares an artifact with the eager model, which a new version of torch may change together
    with it. An artifact that failed its own validation is left out.

    Returns:
        The comparison on validation images and edge cases, by the job's name.

    Raises:
        RegistryError: the registry cannot be reached.
    """
    jobs = to_jobs(MODELS, *map(load_values, ("jobs", "targets", "conversions", "models")))
    settings, found = read_registry_settings(PARAMS), {}
    for job in jobs:
        champion, (_, faults) = champions.get(job.name), job.evaluate()
        if champion and not faults and champion.is_reexported_as(read_artifact(job.artifact_dir)):
            found[job.name] = _compare(job.artifact_dir, champion, job.target, settings)
    return found


def _compare(artifact_dir: Path, champion: Champion, target: str, settings: RegistrySettings) -> Comparison:
    """Compare an artifact with its champion in a child process, which native code may end.

    A runtime may be unable to read what another version of it compiled or serialized.
    """
    try:
        with champion_artifact(champion, settings, find_workspace()) as other:
            differences: tuple[str, ...] = call_in_child(
                _differences,
                artifact_dir,
                other,
                target,
                what="the process that runs the champion",
                has_children=True,
            )
    # A RuntimeError: the process ended by a signal, or the runtime raised an exception of its own.
    except (ArtifactError, RuntimeUnavailableError, RuntimeError) as error:
        return Comparison(not_compared=str(error))
    return Comparison(differences)


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
