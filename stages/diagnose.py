"""Diagnose: a verdict that an artifact does not compute what the model computes -> where it first goes wrong.

An artifact that has passed needs none. A diagnosis is a result, also one that could not be made.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.diagnosis.diagnose import Diagnosis, diagnose
from detexport.diagnosis.drawing import save_evidence
from detexport.diagnosis.twin import Twin, twin_of
from detexport.errors import DataError, DetexportError, RuntimeUnavailableError
from detexport.modeling import build_model
from detexport.reference.store import Sample, read_reference
from detexport.system.atomic import atomic_dir
from detexport.system.files import read_json, write_json
from detexport.system.script import run
from stage import instantiate

REPORT, PICTURE = "diagnosis.json", "difference.png"


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    verdict: Annotated[Path, Option()],
    save_dir: Annotated[Path, Option()],
) -> None:
    """Write JOB's diagnosis, or that VERDICT asks for none, into SAVE_DIR."""
    judged = read_json(verdict)
    with atomic_dir(save_dir) as folder:
        if judged["passed"]:
            write_json(folder / REPORT, {"needed": False})
            return
        twin = job_twin(job, artifact_dir)
        samples = read_reference(reference).samples
        try:
            diagnosis = find(twin, artifact_dir, build, weights, samples, judged)
        except RuntimeUnavailableError:  # says nothing of the artifact
            raise
        except DetexportError as error:
            write_json(
                folder / REPORT, {"needed": True, "first": None, "sentence": f"not diagnosed: {error}"}
            )
            echo(f"{job}: not diagnosed: {error}")
            return
        write_json(folder / REPORT, diagnosis.to_json())
        if diagnosis.evidence is not None:
            order = read_artifact(artifact_dir).contract.channel_order
            save_evidence(folder / PICTURE, diagnosis.evidence, order)
    echo(f"{job}: {diagnosis.sentence}")


def find(
    twin: Twin,
    artifact_dir: Path,
    build: Path,
    weights: Path,
    samples: tuple[Sample, ...],
    judged: dict[str, Any],
) -> Diagnosis:
    """Diagnose on the first sample that did not pass and shows something, recorded as the artifact was.

    Segments take one image: of samples that did not pass, those that were run alone come first.
    """
    torch.manual_seed(0)
    net = build_model(load_cfg(build / "config.yaml")).eval()
    weights_file = weights / "model.safetensors"
    load_weights(net, read_state_dict(weights_file), str(weights_file))
    failed = {sample["id"] for sample in judged["samples"] if not sample["passed"]}
    ranked = sorted(
        samples, key=lambda one: (one.meta.id not in failed, bool(one.meta.batch), not one.detections)
    )
    if not ranked:
        raise DataError("the reference has no sample", remedy="run the stage `reference` again")
    image = ranked[0].image()
    traced = (one for one in samples if one.meta.traced and one.meta.image_size != image.shape[1:])
    recorded = next(traced, None)
    diagnosis = diagnose(
        net,
        artifact_dir,
        image,
        recorded=recorded.image() if recorded else None,
        twin=twin,
    )
    if not ranked[0].meta.batch:
        return diagnosis
    alone = f"only images in a batch did not pass; {ranked[0].meta.id} was looked at alone"
    return replace(diagnosis, notes=(*diagnosis.notes, alone))


def job_twin(job: str, artifact_dir: Path) -> Twin:
    """The twin of JOB's artifact, from the parameters that it was made with."""
    target = load_params(f"targets.{load_params(f'jobs.{job}.target')}")
    makers = [(one.name, instantiate(one.maker)) for one in load_params(f"makers.{target.artifact}")]
    return twin_of(
        read_artifact(artifact_dir), makers, instantiate(target.runtime), target.get("precision", "")
    )


if __name__ == "__main__":
    run(main, fixed_hashes=True)
