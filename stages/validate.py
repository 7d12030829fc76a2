"""Validate: an artifact in its runtime against the eager model's stored detections -> a verdict.

A verdict is a result, also a bad one: the exit code stays 0. The model's own code is never imported here.
"""

from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.config.params import load_params
from detexport.data.coco import load_coco
from detexport.errors import LONGEST_MESSAGE, printable, shortened
from detexport.metrics.evaluate import annotation_kind
from detexport.parity.accuracy import FLOAT32
from detexport.parity.certificate import certify
from detexport.parity.noise_floor import read_floor
from detexport.parity.settings import ParitySettings
from detexport.parity.validate import Support
from detexport.reference.store import read_reference
from detexport.system.files import write_json
from detexport.system.script import run
from detexport.workflows.validate import validate_job
from stage import instantiate

MOST_REASONS = 20


def main(
    job: Annotated[str, Option()],
    artifact_dir: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    floor: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
    save_drawn_to: Annotated[Path, Option()],
    save_certificate_to: Annotated[Path, Option()],
) -> None:
    """Write JOB's verdict to SAVE_TO, what a registry asks for to SAVE_CERTIFICATE_TO.

    The detections that the report draws go to SAVE_DRAWN_TO.
    """
    settings = ParitySettings.of(OmegaConf.to_object(load_params("parity")))  # type: ignore[arg-type]
    target = load_params(f"targets.{load_params(f'jobs.{job}.target')}")
    runtime: Any = OmegaConf.to_object(target.runtime)
    precision = target.get("precision", FLOAT32)
    artifact = read_artifact(artifact_dir)
    dataset = None
    is_asked = settings.quality_images and (precision != FLOAT32 or precision in settings.judged)
    if is_asked and read_reference(reference).quality is not None:
        dataset = load_coco(data, "val", load_params("data.categories"), annotation_kind(artifact.contract))
    report = validate_job(
        artifact_dir,
        instantiate(target.runtime),
        reference,
        settings,
        job=job,
        precision=precision,
        floor=read_floor(floor),
        dataset=dataset,
        data=data,
        support=Support.of(dict(target.support)) if "support" in target else None,
        save_to=save_to,
        run_options={"runtime": runtime},
    )
    report.save(save_to, save_drawn_to)
    certificate = certify(report.to_json(), artifact, reference=reference, runtime=runtime)
    write_json(save_certificate_to, certificate)
    echo(f"{job}: {'passed' if report.passed else 'did not pass'}")
    for name, verdict in report.verdicts.items():
        answer = "not judged" if not verdict.judged else "passed" if verdict.passed else "failed"
        echo(f"  {name:9}{answer}{f' ({verdict.note})' if verdict.note else ''}")
    for reason in report.reasons[:MOST_REASONS]:
        echo(f"  {shortened(printable(reason), LONGEST_MESSAGE)}")
    if len(report.reasons) > MOST_REASONS:
        echo(f"  and {len(report.reasons) - MOST_REASONS} more reasons in {save_to}")


if __name__ == "__main__":
    run(main)
