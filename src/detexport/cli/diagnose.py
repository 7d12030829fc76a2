"""``detexport diagnose``: the first segment of the model whose outputs differ in an artifact."""

from pathlib import Path
from typing import Any

from detexport.artifact import read_artifact
from detexport.cli.output import print_json
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.diagnosis.diagnose import Diagnosis
from detexport.formats.image_files import find_images
from detexport.system.progress import say, step
from detexport.workflows.diagnose import diagnose_artifact, save_diagnosis
from detexport.workflows.load_model import load_model
from detexport.workflows.model_source import ModelSource, find_source


def diagnose(
    artifact_dir: Path, model: ModelSource, *, image: str, target: str, save_dir: Path | None, as_json: bool
) -> Diagnosis:
    """Diagnose an artifact, and print the result; see ``detexport diagnose --help``.

    Raises:
        CheckpointError: the weights are not the model's.
        DetexportError: see ``diagnose_artifact``.
    """
    with step("build the model and load its weights"):
        loaded = load_model(find_source(artifact_dir, model))
    file = find_images([image])[0] if image else BUNDLED_SAMPLE
    diagnosis = diagnose_artifact(artifact_dir, loaded, image=file, target=target)
    if as_json:
        print_json(diagnosis.to_json())
    else:
        print("\n".join(_table(diagnosis)))
    if save_dir is not None:
        save_diagnosis(diagnosis, save_dir, read_artifact(artifact_dir).contract.channel_order)
        say(f"{save_dir}: {', '.join(sorted(path.name for path in save_dir.iterdir()))}")
    return diagnosis


def _table(diagnosis: Diagnosis) -> list[str]:
    height, width = diagnosis.image_size
    lines = [f"{diagnosis.method} in {diagnosis.runtime}, on an image of {width} x {height} px"]
    for one in (*diagnosis.segments, diagnosis.artifact):
        state = {True: "passed", False: "DIFFERS", None: "unknown"}[one.passed]
        lines.append(f"  {one.name:20} {state:8} {_numbers(one.errors, one.limits)}".rstrip())
        if one.why:
            lines.append(f"    {one.why}")
    return [*lines, *(f"note: {note}" for note in diagnosis.notes), diagnosis.sentence]


def _numbers(errors: dict[str, float], limits: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {error:.2g}" + (f" (limit {limits[name]:.2g})" if name in limits else "")
        for name, error in errors.items()
    )
