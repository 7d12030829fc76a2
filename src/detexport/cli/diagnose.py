"""``detexport diagnose``: where an artifact first computes something else than its model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, read_verified
from detexport.cli.checks import Request, find_origin
from detexport.cli.export import BUNDLED_SAMPLE, Model, load_model
from detexport.cli.images import find_images
from detexport.cli.output import print_json
from detexport.cli.progress import say, step
from detexport.data.samples import ImageSamples
from detexport.diagnosis.diagnose import Diagnosis, diagnose
from detexport.diagnosis.drawing import save_evidence
from detexport.errors import ArtifactError
from detexport.system.files import write_json, writing
from detexport.workflows.engines import asked_target

REPORT, PICTURE = "diagnosis.json", "difference.png"


@dataclass(frozen=True)
class Question:
    """What the user asked: see ``detexport diagnose --help``."""

    artifact_dir: Path
    config_file: str
    weights: str
    image: str
    target: str
    save_dir: Path | None
    as_json: bool
    overrides: tuple[str, ...]
    allow_new: tuple[str, ...] = ()


def run(question: Question) -> Diagnosis:
    """Diagnose an artifact, and say what was found.

    Raises:
        ArtifactError: the folder is not an artifact, its files were changed, or it is of another model.
        ConfigError: the configuration or the weights are missing, the target does not run the artifact, or it
            has no twin.
        DataError: there is no such image.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    folder = question.artifact_dir
    artifact = read_verified(folder)
    asked_target(artifact, question.target)
    files = find_images([question.image]) if question.image else [BUNDLED_SAMPLE]
    model = _model(question)
    _require_origin(artifact, model, folder)
    (image,) = ImageSamples(files[:1], artifact.contract.channel_order, artifact.contract.resize)
    diagnosis = diagnose(model.net, folder, image, target=question.target)
    if question.as_json:
        print_json(diagnosis.to_json())
    else:
        print("\n".join(_table(diagnosis)))
    if question.save_dir is not None:
        save(diagnosis, question.save_dir, artifact.contract.channel_order)
        say(f"{question.save_dir}: {', '.join(sorted(path.name for path in question.save_dir.iterdir()))}")
    return diagnosis


def save(diagnosis: Diagnosis, folder: Path, channel_order: str) -> None:
    """Write the report and, where a segment differs, the picture.

    Raises:
        OutputError: the folder cannot be written.
    """
    with writing(folder):
        write_json(folder / REPORT, diagnosis.to_json())
        if diagnosis.evidence is not None:
            save_evidence(folder / PICTURE, diagnosis.evidence, channel_order)
        else:
            (folder / PICTURE).unlink(missing_ok=True)


def _model(question: Question) -> Model:
    """The model that is given, or that lies beside an artifact of the pipeline."""
    given = Request(
        question.config_file,
        question.weights,
        target="",
        output=Path(),
        overrides=question.overrides,
        allow_new=question.allow_new,
    )
    request = find_origin(question.artifact_dir, given)
    with step("build the model and load its weights"), tempfile.TemporaryDirectory() as folder:
        return load_model(request, Path(folder))


def _require_origin(artifact: Artifact, model: Model, folder: Path) -> None:
    """See that the artifact was exported from this very model.

    Raises:
        ArtifactError: it was exported from another.
    """
    given = model.provenance
    pairs = {
        "weights": (artifact.weights_sha256, given.weights_sha256),
        "configuration": (artifact.config_sha256, given.config_sha256),
    }
    other = {name: sides for name, sides in pairs.items() if sides[0] != sides[1]}
    if other:
        raise ArtifactError(
            f"{folder} was exported from another model",
            got=", ".join(f"{name} {given}" for name, (_, given) in other.items()),
            expected=", ".join(f"{name} {exported}" for name, (exported, _) in other.items()),
            remedy="give the configuration, the keys over it and the weights that it was exported with",
        )


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
