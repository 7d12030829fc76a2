"""Parity of a re-exported artifact with the champion: the same model in another environment."""

from pathlib import Path

from detexport.config.params import PARAMS
from detexport.parity.settings import read_parity_settings
from detexport.targets.table import TARGETS


def differences(artifact_dir: Path, champion_dir: Path, data: Path, target: str) -> tuple[str, ...]:
    """Compare a new artifact with the champion's on validation images and edge cases.

    The pipeline compares it with the eager model, which a new version of torch may change together with it.

    Args:
        artifact_dir: the new artifact.
        champion_dir: the champion's artifact.
        data: the data set.
        target: target that both are run as; one that only the project knows runs in the format's runtime.

    Returns:
        In what they differ; empty if they agree within the tolerances.
    """
    from detexport.workflows.validate_against import validate_against

    known = target if target in TARGETS else ""
    report = validate_against(
        artifact_dir,
        champion_dir,
        data=data,
        target=known,
        other_target=known,
        settings=read_parity_settings(PARAMS),
    )
    return tuple(report.reasons)
