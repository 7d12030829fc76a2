"""The numerical errors that are measured: output, unit and limit of each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detexport.parity.compare.tolerance import Tolerance


@dataclass(frozen=True)
class Measure:
    """A numerical error that is measured.

    Args:
        fields: outputs that have this error.
        words: its name in reports.
        unit: ``px`` or empty.
        tolerance: name in ``Tolerance`` of its limit; empty if it has none of its own.
        limit: format string of its limit, filled with the tolerance.
        of_samples: whether it is measured on each sample, or on all of them together.
    """

    fields: tuple[str, ...]
    words: str
    unit: str = ""
    tolerance: str = ""
    limit: str = ""
    of_samples: bool = True


MEASURES = {
    "box_error_px": Measure(
        ("pred_boxes", "proposal_boxes"), "boxes", "px", "box_px", "{box_px:g} px x scale"
    ),
    "score_error": Measure(("scores",), "scores", "", "score", "{score:g}"),
    "objectness_error": Measure(
        ("objectness_logits",), "objectness logits", "", "objectness", "{objectness:g}"
    ),
    "mask_error_px": Measure(
        ("pred_masks",), "masks", "px", "mask_px", "{mask_px:g} px or {mask_area_ratio:.1%} of the area"
    ),
    "mask_error_ratio": Measure(("pred_masks",), "masks, of their area"),
    "mask_iou_error": Measure(("pred_masks",), "masks, 1 - IoU"),
    "keypoint_error_px": Measure(
        ("pred_keypoints",), "keypoints", "px", "keypoint_px", "{keypoint_px:g} px x scale"
    ),
    "keypoint_score_error": Measure(
        ("pred_keypoints",), "keypoint scores", "", "keypoint_score", "{keypoint_score:g} of each"
    ),
    "keypoint_flip_ratio": Measure(
        ("pred_keypoints",),
        "keypoints, other cell",
        "",
        "keypoint_flip_ratio",
        "{keypoint_flip_ratio:g} of all",
        of_samples=False,
    ),
    "keypoint_oks_error": Measure(("pred_keypoints",), "keypoints, 1 - OKS"),
    "sem_seg_error": Measure(("sem_seg",), "semantic logits", "", "sem_seg", "{sem_seg:g}"),
    "sem_seg_class_ratio": Measure(("sem_seg",), "semantic pixels of another class"),
    "panoptic_error_ratio": Measure(
        ("panoptic_seg",), "panoptic pixels", "", "panoptic_ratio", "{panoptic_ratio:g} of all"
    ),
    "panoptic_quality_error": Measure(("panoptic_seg",), "panoptic segments, 1 - PQ"),
}


def limits_of(errors: Iterable[str], tolerance: Tolerance, scale: float) -> dict[str, float]:
    """Return the limits of the errors of one image that have one, by the errors' names.

    Args:
        errors: names of errors; others than ``MEASURES`` have no limit.
        tolerance: the limits.
        scale: output size / input size.
    """
    return {
        name: tolerance.limit(MEASURES[name].tolerance, scale)
        for name in errors
        if name in MEASURES and MEASURES[name].tolerance and MEASURES[name].of_samples
    }


def measured(names: Iterable[str]) -> list[str]:
    """Return the names of the errors that outputs of these names have."""
    given = set(names)
    return [name for name, measure in MEASURES.items() if given & set(measure.fields)]


def limited_errors(verdict: Mapping[str, Any]) -> list[tuple[Measure, float | None, str]]:
    """Return the errors of a parity report (as JSON) with a limit: measure, largest error, limit.

    The limit is the one that the largest error was compared with, wider than the tolerance on an input where
    the model's own noise is larger. The deltas of the task metrics come last; reduced precision has those
    alone.
    """
    accuracy = verdict.get("accuracy") or {"differences": {}}
    of_task: list[tuple[Measure, float | None, str]] = [
        (Measure((), f"delta {name} vs eager"), difference, f"{accuracy['budget']:g}")
        for name, difference in accuracy["differences"].items()
    ]
    if verdict["tolerance"] is None:
        return of_task
    of_outputs = [
        (measure, verdict["max"][name], _limit(verdict, name, measure.limit))
        for name, measure in MEASURES.items()
        if name in verdict["max"] and measure.tolerance
    ]
    return [*of_outputs, *of_task]


def _limit(verdict: Mapping[str, Any], name: str, words: str) -> str:
    """Return the limit that the largest error of a name was compared with, in words."""
    worst = verdict["max"][name]
    of_worst = [
        one for one in verdict["samples"] if worst is not None and one.get("errors", {}).get(name) == worst
    ]
    widened = of_worst[0].get("widened", {}) if of_worst else {}
    table, limit = (words.format(**{**verdict["tolerance"], **wider}) for wider in ({}, widened))
    return limit if limit == table else f"{limit}, widened from {table} by the model's own noise"


def unlimited_errors(verdict: Mapping[str, Any]) -> list[tuple[Measure, float]]:
    """Return the measured errors of a parity report (as JSON) that have no limit; in reduced precision all.

    Errors of which nothing was measured are left out.
    """
    return [
        (measure, verdict["max"][name])
        for name, measure in MEASURES.items()
        if verdict["max"].get(name) is not None and (not measure.tolerance or verdict["tolerance"] is None)
    ]
