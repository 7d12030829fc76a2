"""The files of a version's run: its certificate, measurements, card, drawings, and a sample to run again."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.parity.compare import Tolerance
from detexport.parity.settings import stored_tolerance
from detexport.parity.verdict import read_drawn
from detexport.predictions.drawing import draw, save_drawing
from detexport.reference.store import DATA, Reference, Sample, read_reference, write_reference
from detexport.registry.card import describe_version
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence
from detexport.system.files import write_json

CARD, SAMPLE, PICTURES = "README.md", "sample", "pictures"
DRAWN_FROM = 0.5
"""Lowest score that the drawings show."""
LARGEST_EXAMPLE_PX = 640


def write_run_files(folder: Path, name: str, content: Content, evidence: Evidence) -> None:
    """Write the files of a version's run into an empty folder.

    ``certificate.json``, ``parity.json``, ``latency.json``, ``data_statistics.json`` if the labels were
    counted, ``README.md`` (the card), ``sample/`` (a stored reference of one input: the image and the eager
    model's outputs) and ``pictures/`` (inputs with the outputs of the eager model and of the artifact).

    Args:
        folder: an empty folder.
        name: the registered name.
        content: the version's content.
        evidence: its measurements.
    """
    for path, value in evidence.files.items():
        write_json(folder / path, value)
    (folder / CARD).write_text(describe_version(name, content, evidence) + "\n", encoding="utf-8")
    reference = read_reference(evidence.reference)
    sample = choose_sample(reference, evidence.verdict)
    write_reference(
        folder / SAMPLE,
        [(sample.meta, sample.image(), sample.expected())],
        contract=reference.contract,
        environment=reference.environment,
    )
    _draw(folder / PICTURES, reference, evidence.drawn, content.contract)


def choose_sample(reference: Reference, verdict: Mapping[str, Any]) -> Sample:
    """Return the input of a reference that is stored with a version, and run again to verify it.

    The first that passed within the limits; if there is one, an image of the data set, at its own scale and
    with detections.

    Raises:
        DataError: no input passed.
    """
    passed = {one["id"]: bool(one.get("widened")) for one in verdict["samples"] if one["passed"]}
    candidates = [one for one in reference.samples if one.meta.id in passed and not one.meta.batch]
    if not candidates:
        raise DataError(
            f"{reference.folder} has no input that can be stored with a version",
            got=f"{len(passed)} inputs passed, none of them alone in a call",
            expected="an input of the reference that passed",
            remedy="run the stages `reference` and `validate` again",
        )
    return min(
        candidates,
        key=lambda one: (
            passed[one.meta.id],
            one.meta.kind != DATA,
            one.detections == 0,
            one.meta.scale != 1,
        ),
    )


def sample_tolerance(verdict: Mapping[str, Any], sample_id: str) -> Tolerance | None:
    """Return the limits that a sample was compared with; None for reduced precision, which has none."""
    if verdict["tolerance"] is None:
        return None
    widened = next((one.get("widened") for one in verdict["samples"] if one["id"] == sample_id), None)
    return replace(stored_tolerance(verdict["tolerance"]), **(widened or {}))


def example_image(evidence: Evidence, contract: Contract) -> bytes:
    """Return the stored sample's image as a JPEG of at most ``LARGEST_EXAMPLE_PX`` px: the input example."""
    sample = choose_sample(read_reference(evidence.reference), evidence.verdict)
    pixels = sample.image()[:: -1 if contract.channel_order == "BGR" else 1]
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((LARGEST_EXAMPLE_PX, LARGEST_EXAMPLE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _draw(folder: Path, reference: Reference, drawn: Path, contract: Contract) -> None:
    """Draw the outputs of the eager model and of the artifact over the inputs whose outputs are stored."""
    outputs = read_drawn(drawn)
    for sample in reference.samples:
        if sample.meta.id not in outputs:
            continue
        image, size = sample.image(), sample.meta.output_size
        if image.shape[1:] != size:
            continue  # the outputs are in the frame of another size
        folder.mkdir(exist_ok=True)
        for who, found in (("eager", sample.expected()), ("artifact", outputs[sample.meta.id])):
            overlay = draw(found, contract, size, min_score=DRAWN_FROM)
            save_drawing(folder / f"{sample.meta.id}_{who}.png", image, contract.channel_order, overlay)
