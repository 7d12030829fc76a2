"""Validate: an artifact in its runtime against the eager model's stored detections -> a verdict.

A verdict is a result, also a bad one: the exit code stays 0. The model's own code is never imported here.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from omegaconf import OmegaConf
from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.data.coco import load_coco
from detexport.errors import ConfigError, DataError, listed
from detexport.files import sha256_file, write_json
from detexport.metrics.judge import annotation_kind
from detexport.parity.certificate import certify
from detexport.parity.floor import read_floor
from detexport.parity.progress import Progress, progress_folder, validation_key
from detexport.parity.quality import FLOAT32, Quality, measure_quality
from detexport.parity.reference import Reference, read_reference
from detexport.parity.validate import validate_artifact
from detexport.runtime.session import Session
from stage import PARAMS, instantiate, load_params, run


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
    parity = load_params("parity")
    target = load_params(f"targets.{load_params(f'jobs.{job}.target')}")
    engine = instantiate(target.runtime)
    expected = read_reference(reference)
    precision = target.get("precision", FLOAT32)
    noise = read_floor(floor)
    settings = {"job": job, "params": sha256_file(PARAMS), "floor": noise.limits}
    key = validation_key(read_artifact(artifact_dir).sha256, reference, data, settings)
    with Progress(progress_folder(save_to), key) as progress:
        report = validate_artifact(
            engine,
            artifact_dir,
            expected,
            instantiate(parity.tolerance),
            job=job,
            floor=noise,
            min_detections=parity.min_detections,
            draw=parity.draw,
            measure=quality_measure(precision, expected, artifact_dir, data, progress),
            reduced=precision != FLOAT32,
            progress=progress,
        )
        report.save(save_to, save_drawn_to)
        runtime: Any = OmegaConf.to_object(target.runtime)
        certificate = certify(
            report.to_json(),
            read_artifact(artifact_dir),
            reference=reference,
            runtime=runtime,
        )
        write_json(save_certificate_to, certificate)
    echo(f"{job}: {'passed' if report.passed else 'did not pass'}")
    for name, verdict in report.verdicts.items():
        answer = "not judged" if not verdict.judged else "passed" if verdict.passed else "failed"
        echo(f"  {name:9}{answer}{f' ({verdict.note})' if verdict.note else ''}")
    for reason in report.reasons:
        echo(f"  {reason}")


def quality_measure(
    precision: str, reference: Reference, artifact_dir: Path, data: Path, progress: Progress
) -> Callable[[Session], Quality] | None:
    """How an artifact of PRECISION is judged, on the images that the eager model was judged on.

    Returns:
        none where nobody asked for it, which in reduced precision is no choice.

    Raises:
        ConfigError: there is no budget for the precision.
        DataError: the precision is reduced, and the reference does not say how good the eager model is.
    """
    budgets = load_params("parity.budgets")
    if precision not in budgets:
        raise ConfigError(
            f"there is no budget for the precision {precision}",
            got=f"parity.budgets: {listed(budgets)}",
            expected=precision,
            remedy=f"-S +parity.budgets.{precision}=<difference of average precision>",
        )
    unasked = precision not in load_params("parity.judged")
    if precision == FLOAT32 and (unasked or reference.quality is None):
        return None
    if reference.quality is None:
        raise DataError(
            "the reference does not say how good the eager model is, which decides on reduced precision",
            got="parity.quality_images=0",
            expected="its metrics on annotated images",
            remedy="set parity.quality_images, and run the stage `reference` again",
        )
    kind = annotation_kind(read_artifact(artifact_dir).contract)
    return partial(
        measure_quality,
        eager=reference.quality,
        dataset=load_coco(data, "val", load_params("data.categories"), kind),
        precision=precision,
        budget=budgets[precision],
        least=load_params("parity.least_quality"),
        progress=progress,
    )


if __name__ == "__main__":
    run(main)
