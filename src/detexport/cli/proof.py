"""The proof of a fresh artifact: beside the eager model on the samples, at several sizes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.cli.progress import say
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.resize import resize_image, resized_size
from detexport.errors import ExportError
from detexport.parity.compare import Tolerance
from detexport.parity.eager import run_eager
from detexport.parity.measures import tell
from detexport.parity.outputs import Outputs
from detexport.parity.quality import Quality
from detexport.parity.reference import SampleMeta, read_reference, write_reference
from detexport.parity.validate import ParityReport, validate_artifact
from detexport.runtime.session import Engine, Session

SCALES = {"as exported": 1.0, "smaller": 0.75, "larger": 1.5}
ODD_SCALE = 0.9
MOST_REASONS = 5


def prove(
    engine: Engine,
    artifact_dir: Path,
    net: Any,
    contract: Contract,
    files: Sequence[Path],
    reference: Path,
    *,
    target: str,
    measure: Callable[[Session], Quality] | None = None,
    reduced: bool = False,
) -> None:
    """Run model and artifact on the samples, and say how far they are apart.

    Args:
        engine: the target's runtime.
        artifact_dir: the artifact.
        net: the eager model.
        contract: its contract.
        files: the samples.
        reference: folder for what the model gives.
        target: its name.
        measure: how the artifact is judged against annotations.
        reduced: the artifact's precision is reduced: that alone decides.

    Raises:
        ExportError: they are further apart than the table of limits allows, or the budget of the precision.
    """
    write_reference(reference, _eager(net, contract, files), contract=contract, environment={})
    report = validate_artifact(
        engine,
        artifact_dir,
        read_reference(reference),
        Tolerance(),
        job=target,
        measure=measure,
        reduced=reduced,
    )
    _tell(report)
    if not report.passed:
        raise ExportError(
            f"{target} does not compute what the model computes",
            got="; ".join(report.reasons[:MOST_REASONS]),
            expected="what the model finds, within the limits",
            remedy="give images of the model's kind by --sample (for int8 by --calibration), choose another "
            "target, or keep the artifact unproved by --no-proof",
        )


def _eager(
    net: Any, contract: Contract, files: Sequence[Path]
) -> Iterator[tuple[SampleMeta, np.ndarray, Outputs]]:
    """What the model gives for each picture of the proof."""
    pictures = list(_pictures(contract, files))
    for meta, image in tqdm(pictures, desc="the model", unit="image"):
        yield meta, image, run_eager(net, image, meta.output_size, contract)


def _pictures(contract: Contract, files: Sequence[Path]) -> Iterator[tuple[SampleMeta, np.ndarray]]:
    """Each sample at the size that was exported, a smaller, a larger and an odd one; and one of nothing."""
    for number, file in enumerate(files, start=1):
        image = read_image(file, contract.channel_order)
        _, height, width = image.shape
        sizes = {name: resized_size(height, width, contract.resize, scale) for name, scale in SCALES.items()}
        odd = resized_size(height, width, contract.resize, ODD_SCALE)
        sizes["odd"] = (odd[0] | 1, odd[1] | 1)
        for name, network_size in sizes.items():
            yield _meta(number, file, name, network_size, (height, width)), resize_image(image, network_size)
    size = sizes["as exported"]
    flat = np.empty((3, *size), np.uint8)
    flat[:] = np.round(contract.pixel_mean).astype(np.uint8)[:, None, None]
    yield _meta(0, Path("flat"), "flat", size, size), flat


def _meta(
    number: int, file: Path, name: str, image_size: tuple[int, int], output_size: tuple[int, int]
) -> SampleMeta:
    scale = max(image / output for image, output in zip(image_size, output_size, strict=True))
    return SampleMeta(
        id=f"{number} {name}",
        image_id=number,
        file=file.name,
        image_size=image_size,
        output_size=output_size,
        scale=scale,
    )


def _tell(report: ParityReport) -> None:
    """The verdict, and what decided it beside its limits."""
    verdict = report.to_json()
    counts = verdict["detections"]
    passed = "passed" if report.passed else "did not pass"
    paired = f"{counts['paired']} of {counts['expected']} detections paired"
    say(f"{report.job} beside the model on {len(report.samples)} pictures: {passed}; {paired}")
    for measure, largest, limit in tell(verdict):
        shown = "nothing to compare" if largest is None else f"{largest:.2g} {measure.unit}".rstrip()
        say(f"  {measure.words:22} {shown:20} (limit {limit})")
