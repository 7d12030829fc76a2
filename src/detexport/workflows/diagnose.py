"""Diagnose: find the first segment of a model whose outputs differ in an artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Artifact, read_artifact, read_verified
from detexport.data.image_samples import BUNDLED_SAMPLE, ImageSamples
from detexport.diagnosis.diagnose import Diagnosis, diagnose
from detexport.diagnosis.drawing import save_evidence
from detexport.diagnosis.segment_exports import SegmentExporter, segment_exporter
from detexport.errors import ArtifactError, DataError, DetexportError, RuntimeUnavailableError
from detexport.reference.store import Sample, read_reference
from detexport.runtime.session import Engine
from detexport.system.atomic import atomic_dir
from detexport.system.files import output_errors, write_json
from detexport.workflows.choose_runtime import asked_target
from detexport.workflows.loaded_model import LoadedModel, load_built_model
from detexport.workflows.sample_folder import read_sample

REPORT, DIFFERENCE = "diagnosis.json", "difference.png"


def diagnose_artifact(
    artifact_dir: Path,
    model: LoadedModel,
    *,
    image: Path = BUNDLED_SAMPLE,
    target: str = "",
) -> Diagnosis:
    """Diagnose an artifact on one image.

    Args:
        artifact_dir: the artifact.
        model: the eager model that it was exported from.
        image: file of the image.
        target: run the artifact as this target does; empty: by its format's runtime, in float32.

    Raises:
        ArtifactError: the folder is not an artifact, its files were changed, or it is of another model.
        ConfigError: the target does not run the artifact, or the artifact's method is not known.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    artifact = read_verified(artifact_dir)
    asked_target(artifact, target)
    _require_origin(artifact, model, artifact_dir)
    (pixels,) = ImageSamples([image], artifact.contract.channel_order, artifact.contract.resize)
    return diagnose(model.net, artifact_dir, pixels, target=target)


def diagnose_job(
    artifact_dir: Path,
    verdict: Mapping[str, Any],
    export_steps: Sequence[tuple[str, Any]],
    engine: Engine,
    precision: str,
    save_dir: Path,
    *,
    build: Path,
    weights: Path,
    sample: Path,
    reference: Path,
) -> str:
    """Diagnose an artifact of the pipeline if it did not pass, and write the result.

    Args:
        artifact_dir: the artifact.
        verdict: the report of its validation, as JSON values.
        export_steps: the export method and the conversions that made it, each by its artifact's name.
        engine: the target's runtime.
        precision: of the target; empty: float32.
        save_dir: folder of the diagnosis.
        build: folder that the stage `build` writes.
        weights: folder that the stage `load_checkpoint` writes.
        sample: folder of the image that the artifact was exported with.
        reference: folder of the eager model's outputs.

    Returns:
        The result, in words.

    Raises:
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    with atomic_dir(save_dir) as folder:
        if verdict["passed"]:
            write_json(folder / REPORT, {"needed": False})
            return "passed, so there is nothing to diagnose"
        artifact = read_artifact(artifact_dir)
        exporter = segment_exporter(artifact, export_steps, engine, precision)
        try:
            model, samples = load_built_model(build, weights), read_reference(reference).samples
            diagnosis = _diagnose_failed(artifact_dir, model, samples, verdict, read_sample(sample), exporter)
        except RuntimeUnavailableError:
            raise
        except DetexportError as error:
            outcome = f"not diagnosed: {error}"
            write_json(folder / REPORT, {"needed": True, "first": None, "sentence": outcome})
            return outcome
        save_diagnosis(diagnosis, folder, artifact.contract.channel_order)
    return diagnosis.sentence


def _diagnose_failed(
    artifact_dir: Path,
    model: LoadedModel,
    samples: Sequence[Sample],
    verdict: Mapping[str, Any],
    exported_with: np.ndarray,
    exporter: SegmentExporter,
) -> Diagnosis:
    """Diagnose an artifact on the first sample that did not pass and has a detection.

    Segments take one image: among the samples that did not pass, those that were run alone come first.
    """
    failed = {sample["id"] for sample in verdict["samples"] if not sample["passed"]}
    ranked = sorted(
        samples, key=lambda one: (one.meta.id not in failed, bool(one.meta.batch), not one.detections)
    )
    if not ranked:
        raise DataError(
            "the reference has no sample",
            got="none",
            expected="at least one",
            remedy="run the stage `reference` again",
        )
    image = ranked[0].image()
    # A size that a trace fixed shows at another size.
    recorded = exported_with if exported_with.shape != image.shape else None
    diagnosis = diagnose(model.net, artifact_dir, image, recorded=recorded, exporter=exporter)
    if not ranked[0].meta.batch:
        return diagnosis
    alone = f"only images in a batch did not pass; {ranked[0].meta.id} was diagnosed alone"
    return replace(diagnosis, notes=(*diagnosis.notes, alone))


def save_diagnosis(diagnosis: Diagnosis, folder: Path, channel_order: str) -> None:
    """Write the report and, where a segment differs, an image of the difference.

    Raises:
        OutputError: the folder cannot be written.
    """
    with output_errors(folder):
        write_json(folder / REPORT, diagnosis.to_json())
        if diagnosis.evidence is not None:
            save_evidence(folder / DIFFERENCE, diagnosis.evidence, channel_order)
        else:
            (folder / DIFFERENCE).unlink(missing_ok=True)


def _require_origin(artifact: Artifact, model: LoadedModel, folder: Path) -> None:
    """Raise ArtifactError unless an artifact was exported from this configuration and these weights."""
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
            remedy="give the configuration, its overriding keys and the weights that it was exported with",
        )
