"""Panoptic quality (Kirillov et al. 2019, arXiv:1801.00868)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from detexport.data.annotations import ImageId, read_panoptic_annotations
from detexport.data.coco import panoptic_folder
from detexport.data.images import check_image_size, read_segment_map
from detexport.errors import MissingAnnotationsError

VOID = 0
"""Id of pixels without a segment."""


@dataclass
class Tally:
    """Counts of the segments of one category.

    Args:
        iou: sum over the matched pairs.
        tp: true positives: pairs of a predicted and an annotated segment with an IoU above 0.5, of which
            each segment has at most one.
        fp: false positives: predicted segments without a match.
        fn: false negatives: annotated segments without a match.
    """

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    @property
    def seen(self) -> bool:
        """Whether the category is annotated or predicted."""
        return self.tp + self.fp + self.fn > 0

    @property
    def qualities(self) -> tuple[float, float, float]:
        """PQ and its factors: SQ, the mean IoU of the matches, and RQ, the F1 score of detection."""
        segmentation = self.iou / self.tp if self.tp else 0.0
        recognition = self.tp / (self.tp + self.fp / 2 + self.fn / 2)
        return segmentation * recognition, segmentation, recognition


class PanopticQuality:
    """PQ, SQ and RQ, accumulated image by image.

    Args:
        annotations: COCO's panoptic annotation file; its PNGs are in ``panoptic_folder(annotations)``.
        thing_ids: COCO's category id of each thing class; segments of other things count as unlabelled.

    Raises:
        DataError: the file does not exist, or is not a COCO panoptic annotation file.
    """

    def __init__(self, annotations: Path, thing_ids: Sequence[ImageId]) -> None:
        if not annotations.exists():
            raise MissingAnnotationsError(
                "the data set has no panoptic annotations",
                got=f"no file {annotations}",
                expected="COCO's panoptic annotations, panoptic_*.json and a folder of PNGs",
                remedy="choose other data, or a model without panoptic segmentation",
            )
        value = read_panoptic_annotations(annotations)
        self.annotations = annotations
        self.thing_ids = list(thing_ids)
        self.stuff_ids = [c["id"] for c in value["categories"] if not c["isthing"]]
        self.gt_entries = {entry["image_id"]: entry for entry in value["annotations"]}
        self.folder = panoptic_folder(annotations)
        self.tallies = self._no_tallies()

    @property
    def categories(self) -> tuple[ImageId, ...]:
        """COCO's category ids: of the things, then of stuff."""
        return (*self.thing_ids, *self.stuff_ids)

    def _no_tallies(self) -> dict[ImageId, Tally]:
        return {category: Tally() for category in self.categories}

    def add(self, image_id: ImageId, segment_map: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> None:
        """Evaluate the segments of one image and accumulate its tallies."""
        self.accumulate(self.evaluate_image(image_id, segment_map, segments))

    def accumulate(self, tallies: Mapping[ImageId, Tally]) -> None:
        """Add the tallies of one image, as ``evaluate_image`` returns them."""
        for category, tally in tallies.items():
            total = self.tallies[category]
            for field in fields(Tally):
                setattr(total, field.name, getattr(total, field.name) + getattr(tally, field.name))

    def evaluate_image(
        self, image_id: ImageId, segment_map: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> dict[ImageId, Tally]:
        """Match the predicted segments of one image with its annotated segments.

        Args:
            image_id: COCO's image id.
            segment_map: (H, W) id of each pixel's predicted segment, 0 for none.
            segments: ``id``, ``isthing`` and ``category_id`` of each predicted segment. ``category_id`` is
                the index of a thing class, or the label of stuff, which starts at 1.

        Returns:
            the tally of each category that is annotated or predicted.

        Raises:
            DataError: the image is not annotated, or its PNG cannot be read.
        """
        gt_map, gt = self.annotated_segments(image_id, segment_map.shape)
        tallies = self._no_tallies()
        match_segments(tallies, gt_map, gt, segment_map, {s["id"]: self._category(s) for s in segments})
        return {category: tally for category, tally in tallies.items() if tally.seen}

    def annotated_segments(
        self, image_id: ImageId, size: tuple[int, int]
    ) -> tuple[np.ndarray, dict[int, ImageId]]:
        """Read the annotated segments of one image; crowds and other categories count as unlabelled.

        Args:
            image_id: COCO's image id.
            size: height and width of the image in px.

        Returns:
            (H, W) id of each pixel's segment, 0 if unlabelled; and the category of each segment by id.

        Raises:
            DataError: the image is not annotated, or its PNG cannot be read or has another size.
        """
        if image_id not in self.gt_entries:
            raise MissingAnnotationsError(
                "the data set's panoptic annotations lack an image",
                got=f"no image {image_id} in {self.annotations}",
                expected="all images of the split",
                remedy="complete them, or choose other data",
            )
        entry = self.gt_entries[image_id]
        path = self.folder / entry["file_name"]
        if not path.is_file():
            raise MissingAnnotationsError(
                "the data set lacks the PNG of a panoptic annotation",
                got=f"no file {path}",
                expected=f"the PNGs of {self.annotations.name} in {self.folder}",
                remedy="unpack them there, choose other data, or a model without panoptic segmentation",
            )
        gt_map = read_segment_map(path)
        check_image_size(path, gt_map.shape, size)
        known = set(self.categories)
        gt = {
            s["id"]: s["category_id"]
            for s in entry["segments_info"]
            if s["category_id"] in known and not s.get("iscrowd", 0)
        }
        return np.where(np.isin(gt_map, list(gt)), gt_map, VOID), gt

    def _category(self, segment: Mapping[str, Any]) -> ImageId:
        """Return COCO's category id of a predicted segment."""
        thing = segment["isthing"]
        ids, index = (
            (self.thing_ids, segment["category_id"])
            if thing
            else (self.stuff_ids, segment["category_id"] - 1)
        )
        if not 0 <= index < len(ids):
            raise MissingAnnotationsError(
                f"{self.annotations} has fewer categories than the model",
                got=f"{'thing' if thing else 'stuff'} {segment['category_id']} of {len(ids)}",
                expected="a category for each class of the model",
                remedy="choose the data set that the model was trained for",
            )
        return ids[index]

    def result(self) -> dict[str, float]:
        """Return ``panoptic/PQ``, ``SQ`` and ``RQ``: means over all categories, things and stuff."""
        metrics: dict[str, float] = {}
        groups = {"": self.categories, "_th": self.thing_ids, "_st": self.stuff_ids}
        for suffix, categories in groups.items():
            qualities = [self.tallies[c].qualities for c in categories if self.tallies[c].seen]
            if qualities:
                means = np.mean(qualities, axis=0)
                metrics |= {
                    f"panoptic/{name}{suffix}": float(v)
                    for name, v in zip(("PQ", "SQ", "RQ"), means, strict=True)
                }
        return metrics


def match_segments(
    tallies: Mapping[ImageId, Tally],
    gt_map: np.ndarray,
    gt: Mapping[int, ImageId],
    segment_map: np.ndarray,
    predicted: Mapping[int, ImageId],
) -> None:
    """Match the segments of one image and add them to the tallies of their categories.

    Unlabelled pixels are ignored: they do not count in the area of a predicted segment, and a predicted
    segment with more than half of its pixels unlabelled is no false positive.

    Args:
        tallies: by category; updated in place.
        gt_map: (H, W) id of each pixel's annotated segment, 0 for unlabelled pixels.
        gt: category of each annotated segment by id.
        segment_map: (H, W) id of each pixel's predicted segment, 0 for none.
        predicted: category of each predicted segment by id.
    """
    pairs, counts = np.unique(np.stack([gt_map.ravel(), segment_map.ravel()]), axis=1, return_counts=True)
    overlap = {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, counts, strict=True)}
    gt_area = {t: sum(n for (other, _), n in overlap.items() if other == t) for t in gt}
    area = {p: sum(n for (_, other), n in overlap.items() if other == p) for p in predicted}
    unlabelled = {p: overlap.get((VOID, p), 0) for p in predicted}
    matched_gt, matched = set(), set()
    for (t, p), common in overlap.items():
        if t == VOID or p == VOID or gt[t] != predicted[p]:
            continue
        iou = common / (gt_area[t] + area[p] - unlabelled[p] - common)
        if iou > 0.5:
            tallies[gt[t]].iou += iou
            tallies[gt[t]].tp += 1
            matched_gt.add(t)
            matched.add(p)
    for t in gt.keys() - matched_gt:
        tallies[gt[t]].fn += 1
    for p in predicted.keys() - matched:
        if unlabelled[p] <= 0.5 * area[p]:
            tallies[predicted[p]].fp += 1
