"""The images on which the artifacts differ most: ground truth, eager model, artifact and difference."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detexport.contract import Contract
from detexport.outputs import Outputs
from detexport.parity.compare import Tolerance
from detexport.parity.compare.match_detections import Rows, pair
from detexport.parity.measures import MEASURES
from detexport.parity.settings import stored_tolerance
from detexport.parity.verdict import read_drawn
from detexport.parity.worst_images import fractions_of_limits
from detexport.predictions.drawing import LARGEST_PX, Overlay, draw, font_size, image_uri, name_only
from detexport.reference.store import DATA, Reference, Sample, SampleMeta, read_reference
from detexport.report.collect import ReportedJob, ReportedModel
from detexport.report.ground_truth import GroundTruth
from detexport.report.number_format import number, percent, plural

DRAWN_FROM = 0.5
"""Lowest score that is drawn; the verdicts cover all detections."""
DIFFERS = (214, 0, 143, 255)
"""Colour of pixels that differ."""


@dataclass(frozen=True)
class Outline:
    """The box of a missing or extra detection, in px of the output."""

    x: float
    y: float
    width: float
    height: float
    side: str


@dataclass(frozen=True)
class Panel:
    """One view of an image.

    Args:
        title: ``ground truth``, ``eager``, the target's name, or ``difference``.
        note: what there is to see.
        overlay: boxes, masks and keypoints; None if there are none to draw.
        differing: pixels that differ, as a data URI; empty if none do. Of the difference alone.
        outlines: missing and extra detections. Of the difference alone.
        is_difference: whether the image is grey.
    """

    title: str
    note: str
    overlay: Overlay | None = None
    differing: str = ""
    outlines: tuple[Outline, ...] = ()
    is_difference: bool = False


@dataclass(frozen=True)
class Comparison:
    """One input with the four views of it.

    Args:
        image_id: id of the embedded image.
        title: what the input is.
        size: height and width of the output in px, in which everything is drawn.
        font_size: that of the labels, in px of the output.
        passed: the verdict on this input.
        summary: the largest errors, or why it did not pass.
        panels: ground truth, eager, artifact, difference.
        legend: name, colour, and colour of text on it, of each class that is drawn.
    """

    image_id: str
    title: str
    size: tuple[int, int]
    font_size: float
    passed: bool
    summary: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str, str], ...]


@dataclass
class ModelComparisons:
    """The worst images of a model's jobs.

    Args:
        model: the model.
        data_dir: see ``GroundTruth``.
        categories: see ``GroundTruth``.
        images: the images that were drawn, as data URIs by id; each is embedded once.
    """

    model: ReportedModel
    data_dir: Path | None
    categories: Sequence[str] | None
    images: dict[str, tuple[str, tuple[int, int]]] = field(default_factory=dict)

    def of(self, job: ReportedJob) -> Iterator[Comparison]:
        """Yield a job's worst images, the worst first."""
        path = self.model.folder / "parity" / f"{job.target}_drawn.npz"
        worst = job.parity.get("worst", [])
        if not (self.model.contract and path.is_file() and worst):
            return
        drawn = read_drawn(path)
        samples = {sample.meta.id: sample for sample in self._reference.samples}
        for id in worst:
            measured = [one for one in job.parity["samples"] if one["id"] == id]
            if id in samples and measured:
                yield self._compare(job, samples[id], drawn.get(id), measured[0])

    @cached_property
    def _contract(self) -> Contract:
        return Contract.from_json(self.model.contract)

    @cached_property
    def _reference(self) -> Reference:
        return read_reference(self.model.folder / "reference")

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        return GroundTruth(self.data_dir, self.categories, self._contract)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the ground truth of images that were compared so far is not drawn."""
        return tuple(self._ground_truth.faults) if self.images else ()

    def _compare(
        self, job: ReportedJob, sample: Sample, actual: Outputs | None, measured: Mapping[str, Any]
    ) -> Comparison:
        meta, contract, expected = sample.meta, self._contract, sample.expected()
        image_id = f"{self.model.name}-{meta.id}"
        if image_id not in self.images:
            self.images[image_id] = (image_uri(sample.image(), contract.channel_order), meta.output_size)
        truth, truth_note = self._ground_truth.of(meta, expected)
        drawn = [self._draw(outputs, meta) for outputs in (truth, expected, actual)]
        drawn[0] = _without_scores(drawn[0], meta.output_size)
        limits = stored_tolerance(job.parity["tolerance"] or {})
        return Comparison(
            image_id=image_id,
            title=describe(meta),
            size=meta.output_size,
            font_size=round(font_size(meta.output_size), 2),
            passed=measured["passed"],
            summary=summarize(job, measured, meta),
            panels=(
                Panel("ground truth", truth_note, drawn[0]),
                Panel("eager", self._count(expected), drawn[1]),
                Panel(job.target, self._count(actual), drawn[2]),
                _difference(expected, actual, measured, limits),
            ),
            legend=_legend(drawn),
        )

    def _draw(self, outputs: Outputs | None, meta: SampleMeta) -> Overlay | None:
        if outputs is None:
            return None
        return draw(outputs, self._contract, meta.output_size, min_score=DRAWN_FROM)

    def _count(self, outputs: Outputs | None) -> str:
        if outputs is None:
            return "returned nothing that can be drawn"
        seen = []
        if "scores" in outputs:
            sure = int(np.count_nonzero(outputs["scores"] >= DRAWN_FROM))
            seen.append(f"{plural(sure, 'detection')} with a score of at least {DRAWN_FROM:g}")
        elif "proposal_boxes" in outputs:
            seen.append(f"the best of {plural(len(outputs['proposal_boxes']), 'proposal')}")
        if "panoptic_seg" in outputs:
            seen.append(plural(len(outputs["segments_info"]), "segment"))
        elif "sem_seg" in outputs:
            seen.append("the class of each pixel")
        return ", ".join(seen)


def describe(meta: SampleMeta) -> str:
    """Return what an input is, in words."""
    kind = "validation image" if meta.kind == DATA else f"edge case: {meta.kind}"
    height, width = meta.image_size
    return ", ".join([*([meta.file] if meta.file else []), kind, f"{width} \u00d7 {height} px"])


def summarize(job: ReportedJob, measured: Mapping[str, Any], meta: SampleMeta) -> str:
    """Return the errors on one input with the fraction of their limits, or why it did not pass."""
    if measured["reasons"]:
        return str(measured["reasons"][0])
    errors, limits = measured["errors"], job.parity.get("tolerance")
    fractions = fractions_of_limits(errors, stored_tolerance(limits), meta.output_scale) if limits else {}
    words = []
    for name, error in errors.items():
        measure = MEASURES[name]
        if measure.limit is not None and measure.of_samples:
            share = f" ({percent(fractions[name])} of the limit)" if name in fractions else ""
            words.append(f"{measure.words} {number(error, measure.unit)}{share}")
    found = job.parity["detections"]
    if found["expected"] or found["actual"]:
        words.append(f"{len(measured['missing'])} missing, {len(measured['extra'])} extra")
    return ", ".join(words)


def _without_scores(overlay: Overlay | None, output_size: tuple[int, int]) -> Overlay | None:
    """Return a drawing of annotations, whose labels have no scores."""
    if overlay is None:
        return None
    labels = (name_only(label, output_size) for label in overlay.labels)
    return replace(overlay, labels=tuple(labels))


def _difference(
    expected: Outputs, actual: Outputs | None, measured: Mapping[str, Any], limits: Tolerance
) -> Panel:
    outlines = tuple(
        Outline(round(x0, 1), round(y0, 1), round(x1 - x0, 1), round(y1 - y0, 1), side)
        for side in ("missing", "extra")
        for x0, y0, x1, y1 in (one["box"] for one in measured[side])
    )
    notes = []
    if "scores" in expected or "proposal_boxes" in expected:
        notes.append(f"{len(measured['missing'])} missing, {len(measured['extra'])} extra")
    differs = None if actual is None else differing_pixels(expected, actual, limits)
    if differs is not None:
        pixels = plural(int(np.count_nonzero(differs)), "pixel")
        notes.append(f"{_regions_of(expected)} differ in {pixels}")
    uri = "" if differs is None else _differing_uri(differs)
    return Panel("difference", "; ".join(notes), None, uri, outlines, is_difference=True)


def _regions_of(outputs: Outputs) -> str:
    """Return what covers the pixels of these outputs, in words."""
    if "panoptic_seg" in outputs:
        return "segments"
    return "classes" if "sem_seg" in outputs else "masks"


def differing_pixels(expected: Outputs, actual: Outputs, limits: Tolerance) -> np.ndarray | None:
    """Return (H, W) bool, where classes of pixels or the masks of paired detections differ.

    A missing or extra detection counts with its whole mask. None if there are neither masks nor classes.
    """
    for name in ("panoptic_seg", "sem_seg"):
        if name in expected and name in actual:
            first, second = (_classes(outputs, name) for outputs in (expected, actual))
            differs: np.ndarray = (first != second).any(0) if first.ndim == 3 else first != second
            return differs
    if "pred_masks" not in expected or "pred_masks" not in actual:
        return None
    sides = Rows.of(expected), Rows.of(actual)
    rows, columns = pair(*sides, limits.pair_iou, limit_px=limits.box_px, tie=limits.score)
    first, second = expected["pred_masks"], actual["pred_masks"]
    unpaired = np.delete(first, rows, 0).any(0) | np.delete(second, columns, 0).any(0)
    differ: np.ndarray = (first[rows] != second[columns]).any(0) | unpaired
    return differ


def _classes(outputs: Outputs, name: str) -> np.ndarray:
    """Return the class of each pixel: (H, W), or whether it is a thing and its class, (2, H, W)."""
    if name == "sem_seg":
        classes: np.ndarray = outputs[name].argmax(0)
        return classes
    categories = np.full((2, *outputs[name].shape), -1)
    for segment in outputs["segments_info"]:
        of_segment = outputs[name] == segment["id"]
        categories[:, of_segment] = np.array([[segment["isthing"]], [segment["category_id"]]])
    return categories


def _differing_uri(differs: np.ndarray) -> str:
    if not differs.any():
        return ""
    step = -(-max(differs.shape) // LARGEST_PX)
    pixels = np.zeros((*differs[::step, ::step].shape, 4), np.uint8)
    pixels[differs[::step, ::step]] = DIFFERS
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _legend(drawn: Sequence[Overlay | None]) -> tuple[tuple[str, str, str], ...]:
    """Return the classes that are drawn in any of the views."""
    names: dict[str, tuple[str, str]] = {}
    for overlay in drawn:
        for label in overlay.labels if overlay else ():
            if label.name:
                names[label.name] = label.colour, label.ink
        names |= {name: (colour, ink) for name, colour, ink in (overlay.legend if overlay else ())}
    return tuple((name, *colours) for name, colours in sorted(names.items()))
