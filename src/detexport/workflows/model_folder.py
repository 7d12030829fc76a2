"""The folder of a model in the pipeline, where commands find defaults."""

from pathlib import Path

from detexport.errors import ConfigError

BUILD, LOADED, REFERENCE, FLOOR = "build", "weights", "reference", "noise_floor.json"
"""Outputs of the stages, next to the folder of artifacts."""
CONFIG, CONTRACT, PARAMETERS = "config.yaml", "contract.json", "parameters.json"
"""Files of ``BUILD``."""
WEIGHTS, LOAD_REPORT = "model.safetensors", "load.json"
"""Files of ``LOADED``."""


def model_folder(artifact_dir: Path) -> Path:
    """Return the folder of the model of an artifact in the pipeline's folders."""
    return artifact_dir.resolve().parent.parent


def require_other_side(artifact_dir: Path, *, is_given: bool, data: Path | None) -> None:
    """Raise ConfigError unless there is a model, artifact or reference to compare with, and images."""
    reference = model_folder(artifact_dir) / REFERENCE
    if (is_given and data is None) or not (is_given or reference.is_dir()):
        raise ConfigError(
            "there is nothing to compare the artifact with",
            got="no --data" if is_given else f"no model, no other artifact, and no reference in {reference}",
            expected="a model (--config-file, --weights) or an artifact (--against), and images (--data)",
            remedy="give them; an artifact in the pipeline's folders needs neither",
        )
