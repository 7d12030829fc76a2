"""Run an artifact or a registered model on all images of a folder or bucket, on an engine; resumable."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from tqdm import tqdm

from detexport.artifact import Artifact, read_artifact
from detexport.batch_prediction.coco_results import require_instances, write_coco
from detexport.batch_prediction.location import Location
from detexport.batch_prediction.parts import (
    Part,
    missing,
    read_errors,
    read_rows,
    schema_of,
    split,
    write_part,
)
from detexport.data.images import decode_image
from detexport.errors import BROKEN, ArtifactError, ConfigError, DetexportError, listed
from detexport.execution.engine import Execution
from detexport.predictions.predict_images import predict, to_plain
from detexport.runtime import Session
from detexport.system.digests import sha256_json
from detexport.system.json_values import parse_json
from detexport.workflows.load_detector import found, load

JOB = "job.json"
"""The file in the output that names the model, the options and the images."""


class ResultFormat(StrEnum):
    """The format of the results: the Parquet parts alone, or COCO's JSON in addition."""

    PARQUET = "parquet"
    COCO = "coco"


@dataclass(frozen=True)
class Request:
    """The request of a batch prediction.

    Args:
        source: folder of an artifact, or a model in MLflow: see ``detexport.load``.
        images: the folder of images.
        output: the folder of results.
        target: run the artifact as this target; empty for the registered or the format's runtime.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.
        score_threshold: instances with a greater score are kept.
        part_images: number of images per part, the unit in which results are written and resumed.
    """

    source: str
    images: Location
    output: Location
    target: str = ""
    device: str = "cpu"
    score_threshold: float = 0.5
    part_images: int = 64


class IncompleteError(DetexportError):
    """Some parts of a prediction are not written; the next run continues."""

    exit_code = BROKEN


@dataclass(frozen=True)
class Summary:
    """The outcome of a prediction.

    Args:
        images: number of images.
        predicted: number of those that this run predicted; the others were done before.
        errors: images that could not be read, with the reasons.
    """

    images: int
    predicted: int
    errors: list[tuple[str, str]]


@dataclass(frozen=True)
class _Worker:
    """Predicts parts of a request, with the artifact of this digest."""

    request: Request
    sha256: str

    def __call__(self) -> Callable[[Part], str]:
        """Load the model; return the function that writes a part: see ``write_part``.

        Raises:
            ArtifactError: the source has another artifact than when the run started.
        """
        session = load(self.request.source, target=self.request.target, device=self.request.device).session
        if session.artifact.sha256 != self.sha256:
            raise ArtifactError(
                f"{self.request.source} changed during the run",
                got=session.artifact.sha256,
                expected=self.sha256,
                remedy="request the version by its number",
            )
        schema = schema_of(session.artifact.contract)
        detect = partial(_detect, session, self.request.score_threshold)

        def write(part: Part) -> str:
            return write_part(part, self.request.images, self.request.output, schema, detect)

        return write


def _detect(session: Session, score_threshold: float, encoded: bytes) -> dict[str, Any]:
    """Return the outputs for an encoded image as plain values, with its height and width."""
    contract = session.artifact.contract
    pixels = decode_image(encoded, contract.channel_order)
    _, height, width = pixels.shape
    outputs = predict(session, pixels, score_threshold)
    return {"height": height, "width": width, **to_plain(outputs, contract)}


def predict_folder(request: Request, execution: Execution, result_format: ResultFormat) -> Summary:
    """Predict the images that have no results in the output yet, and write the results.

    Args:
        request: the model, the images and the output.
        execution: where the model runs; its workers read the images and write the parts.
        result_format: COCO's JSON is written after all parts.

    Raises:
        ArtifactError: the source is not an artifact.
        ConfigError: the output holds results of another request, or the model detects no instances and COCO's
            format is requested.
        DataError: there is no image.
        OutputError: the results cannot be written.
        IncompleteError: some parts are not written, since the network or the memory failed; all others are.
    """
    with found(request.source, request.target) as (folder, _):
        artifact = read_artifact(folder)
    if result_format is ResultFormat.COCO:
        require_instances(artifact.contract)
    names = request.images.images()
    _begin(request, artifact, names)
    parts = split(names, request.part_images)
    left = missing(parts, request.output)
    images = sum(len(part.images) for part in left)
    worker = _Worker(request, artifact.sha256)
    reasons = []
    with tqdm(total=len(names), initial=len(names) - images, desc="predict", unit="image") as progress:
        written = execution.map(worker, left, gpus=int(request.device.startswith("cuda")))
        for part, reason in zip(left, written, strict=True):
            reasons += [reason] if reason else []
            progress.update(len(part.images))
    if reasons:
        raise IncompleteError(
            f"{len(reasons)} of {len(parts)} parts are not complete",
            got=reasons[0],
            expected="all images",
            remedy="run the same command again: it continues",
        )
    request.output.remove_partial()
    if result_format is ResultFormat.COCO:
        write_coco(read_rows(parts, request.output), artifact.contract, request.output)
    return Summary(len(names), images, read_errors(parts, request.output))


def _begin(request: Request, artifact: Artifact, names: list[str]) -> None:
    """Record the request in the output, or compare it with the one recorded there.

    Raises:
        ConfigError: the output holds results of another model, other options or other images.
    """
    job = {
        "artifact": artifact.sha256,
        "target": request.target,
        "device": request.device.partition(":")[0],
        "score_threshold": request.score_threshold,
        "images": request.images.name,
        "image_count": len(names),
        "images_sha256": sha256_json(names),
        "part_images": request.part_images,
    }
    if JOB not in request.output.files(missing=True):
        request.output.write(JOB, lambda stream: stream.write(json.dumps(job, indent=1).encode()))
        return
    before = parse_json(request.output.read(JOB))
    changed = [name for name, value in job.items() if before.get(name) != value]
    if changed:
        raise ConfigError(
            f"{request.output.name} holds results of another request",
            got=listed(f"{name}={job[name]}" for name in changed),
            expected=listed(f"{name}={before.get(name)}" for name in changed),
            remedy="choose another --output, or give the same model, options and images",
        )
