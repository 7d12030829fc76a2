"""The errors that a verdict tells, in words: what they are of, their unit, what they are held against."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """An error that is measured.

    Args:
        fields: the graph's outputs that have it.
        words: what it is an error of.
        unit: ``px`` or nothing.
        limit: what it is held against, to be filled with the tolerance; none where another measure's limit
            speaks of it.
        of_samples: whether each sample has it, or all of them together.
    """

    fields: tuple[str, ...]
    words: str
    unit: str
    limit: str | None
    of_samples: bool = True


MEASURES = {
    "box_error_px": Measure(("pred_boxes", "proposal_boxes"), "boxes", "px", "{box_px:g} px x scale"),
    "score_error": Measure(("scores",), "scores", "", "{score:g}"),
    "objectness_error": Measure(("objectness_logits",), "objectness logits", "", "{objectness:g}"),
    "mask_error_px": Measure(
        ("pred_masks",), "masks", "px", "{mask_px:g} px or {mask_area_ratio:.1%} of the area"
    ),
    "mask_error_ratio": Measure(("pred_masks",), "masks, of their area", "", None),
    "mask_iou_error": Measure(("pred_masks",), "masks, 1 - IoU", "", None),
    "keypoint_error_px": Measure(("pred_keypoints",), "keypoints", "px", "{keypoint_px:g} px x scale"),
    "keypoint_score_error": Measure(("pred_keypoints",), "keypoint scores", "", "{keypoint_score:g} of each"),
    "keypoint_flip_ratio": Measure(
        ("pred_keypoints",), "keypoints elsewhere", "", "{keypoint_flip_ratio:g} of all", of_samples=False
    ),
    "keypoint_oks_error": Measure(("pred_keypoints",), "keypoints, 1 - OKS", "", None),
    "sem_seg_error": Measure(("sem_seg",), "semantic logits", "", "{sem_seg:g}"),
    "sem_seg_class_ratio": Measure(("sem_seg",), "semantic pixels of another class", "", None),
    "panoptic_error_ratio": Measure(("panoptic_seg",), "panoptic pixels", "", "{panoptic_ratio:g} of all"),
    "panoptic_quality_error": Measure(("panoptic_seg",), "panoptic segments, 1 - PQ", "", None),
}


def measured(names: Iterable[str]) -> list[str]:
    """Names of the errors that outputs of these names have."""
    given = set(names)
    return [name for name, measure in MEASURES.items() if given & set(measure.fields)]


def tell(verdict: Mapping[str, Any]) -> list[tuple[Measure, float | None, str]]:
    """What decided a verdict (as JSON): each error with a limit of its own, the largest of it, the limit.

    Last, how far each task metric lies from the eager model's; reduced precision is decided by that alone.
    """
    accuracy = verdict.get("accuracy") or {"differences": {}}
    of_task: list[tuple[Measure, float | None, str]] = [
        (Measure((), f"{name} less eager's", "", None), difference, f"{accuracy['budget']:g}")
        for name, difference in accuracy["differences"].items()
    ]
    if verdict["tolerance"] is None:
        return of_task
    of_outputs = [
        (measure, verdict["max"][name], measure.limit.format(**verdict["tolerance"]))
        for name, measure in MEASURES.items()
        if name in verdict["max"] and measure.limit is not None
    ]
    return [*of_outputs, *of_task]


def beside(verdict: Mapping[str, Any]) -> list[tuple[Measure, float]]:
    """What a verdict (as JSON) measured and holds to no limit, where there was something to measure.

    Where the precision is reduced that is every error.
    """
    return [
        (measure, verdict["max"][name])
        for name, measure in MEASURES.items()
        if verdict["max"].get(name) is not None and (measure.limit is None or verdict["tolerance"] is None)
    ]
