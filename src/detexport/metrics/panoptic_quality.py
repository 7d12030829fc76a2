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
"""Id of the pixels of no segment."""


@dataclass
class Tally:
    """Segments of one category over all images.

    Args:
        iou: sum over the matched pairs.
        matched: pairs of a predicted and a true segment with an IoU above 0.5; there can be but one for each.
        wrong: predicted segments that match none.
        missed: true segments that match none.
    """

    iou: float = 0.0
    matched: int = 0
    wrong: int = 0
    missed: int = 0

    @property
    def seen(self) -> bool:
        """Whether there is anything to judge."""
        return self.matched + self.wrong + self.missed > 0

    @property
    def qualities(self) -> tuple[float, float, float]:
        """PQ, and its factors: SQ, the mean IoU of the matches, and RQ, the F1 score of finding them."""
        segmentation = self.iou / self.matched if self.matched else 0.0
        recognition = self.matched / (self.matched + self.wrong / 2 + self.missed / 2)
        return segmentation * recognition, segmentation, recognition


class PanopticQuality:
    """PQ, SQ and RQ of segments, gathered image by image.

    Args:
        annotations: COCO's panoptic annotations; the PNGs lie in the folder of the file's stem beside the
            file's folder.
        thing_ids: COCO's category id of each class index of the things; true segments of other things count
            as not labelled.

    Raises:
        DataError: there is no such file, or it is not COCO's.
    """

    def __init__(self, annotations: Path, thing_ids: Sequence[ImageId]) -> None:
        if not annotations.exists():
            raise MissingAnnotationsError(
                "the data set has no panoptic annotations",
                got=f"no file {annotations}",
                expected="COCO's panoptic annotations, panoptic_*.json and a folder of PNGs",
                remedy="choose other data, or a model that gives no segments",
            )
        value = read_panoptic_annotations(annotations)
        self.annotations = annotations
        self.thing_ids = list(thing_ids)
        self.stuff_ids = [c["id"] for c in value["categories"] if not c["isthing"]]
        self.truth = {entry["image_id"]: entry for entry in value["annotations"]}
        self.folder = panoptic_folder(annotations)
        self.tallies = self._no_tallies()

    def _no_tallies(self) -> dict[ImageId, Tally]:
        return {category: Tally() for category in (*self.thing_ids, *self.stuff_ids)}

    def add(self, image_id: ImageId, segment_map: np.ndarray, segments: Sequence[Mapping[str, Any]]) -> None:
        """Evaluate the segments of one image and count them; see ``look``."""
        self.count(self.look(image_id, segment_map, segments))

    def count(self, tallies: Mapping[ImageId, Tally]) -> None:
        """Add an image's tallies to those of all."""
        for category, tally in tallies.items():
            of_all = self.tallies[category]
            for field in fields(Tally):
                setattr(of_all, field.name, getattr(of_all, field.name) + getattr(tally, field.name))

    def look(
        self, image_id: ImageId, segment_map: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> dict[ImageId, Tally]:
        """Evaluate the segments of one image.

        Args:
            image_id: COCO's.
            segment_map: (H, W) id of each pixel's segment, 0 for none.
            segments: ``id``, ``isthing`` and ``category_id`` of each: an index of a thing's class, or the
                label of stuff, 1 being the first.

        Returns:
            its tally of each category that it has.

        Raises:
            DataError: the image is not annotated, or its PNG cannot be read.
        """
        if image_id not in self.truth:
            raise MissingAnnotationsError(
                "the data set's panoptic annotations lack an image",
                got=f"no image {image_id} in {self.annotations}",
                expected="all images of the split",
                remedy="complete them, or choose other data",
            )
        entry = self.truth[image_id]
        path = self.folder / entry["file_name"]
        if not path.is_file():
            raise MissingAnnotationsError(
                "the data set lacks the PNG of a panoptic annotation",
                got=f"no file {path}",
                expected=f"the PNGs of {self.annotations.name} in a folder of its name",
                remedy="unpack them there, choose other data, or a model that gives no segments",
            )
        true_map = read_segment_map(path)
        check_image_size(path, true_map.shape, segment_map.shape)
        tallies = self._no_tallies()
        labelled = [s for s in entry["segments_info"] if s["category_id"] in tallies]
        true = {s["id"]: s["category_id"] for s in labelled if not s.get("iscrowd", 0)}
        predicted = {s["id"]: self._category(s) for s in segments}
        judge_image(
            tallies,
            np.where(np.isin(true_map, list(true)), true_map, VOID),
            true,
            segment_map,
            predicted,
        )
        return {category: tally for category, tally in tallies.items() if tally.seen}

    def _category(self, segment: Mapping[str, Any]) -> ImageId:
        """COCO's category id of a predicted segment."""
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
        """``panoptic/PQ``, ``SQ`` and ``RQ``: means over the categories, over the things, over the stuff."""
        metrics: dict[str, float] = {}
        groups = {"": [*self.thing_ids, *self.stuff_ids], "_th": self.thing_ids, "_st": self.stuff_ids}
        for suffix, categories in groups.items():
            qualities = [self.tallies[c].qualities for c in categories if self.tallies[c].seen]
            if qualities:
                means = np.mean(qualities, axis=0)
                metrics |= {
                    f"panoptic/{name}{suffix}": float(v)
                    for name, v in zip(("PQ", "SQ", "RQ"), means, strict=True)
                }
        return metrics


def judge_image(
    tallies: Mapping[ImageId, Tally],
    true_map: np.ndarray,
    true: Mapping[int, ImageId],
    segment_map: np.ndarray,
    predicted: Mapping[int, ImageId],
) -> None:
    """Count one image's segments into the tallies of their categories.

    What is not labelled counts neither for nor against: it is no part of a predicted segment's area, and a
    predicted segment that lies there by more than half is not wrong.

    Args:
        tallies: by category.
        true_map: (H, W) id of each pixel's true segment, 0 where it is not labelled.
        true: category of each true segment by id.
        segment_map: (H, W) id of each pixel's predicted segment, 0 for none.
        predicted: category of each predicted segment by id.
    """
    pairs, counts = np.unique(np.stack([true_map.ravel(), segment_map.ravel()]), axis=1, return_counts=True)
    overlap = {(int(t), int(p)): int(n) for (t, p), n in zip(pairs.T, counts, strict=True)}
    true_area = {t: sum(n for (other, _), n in overlap.items() if other == t) for t in true}
    area = {p: sum(n for (_, other), n in overlap.items() if other == p) for p in predicted}
    unlabelled = {p: overlap.get((VOID, p), 0) for p in predicted}
    matched_true, matched = set(), set()
    for (t, p), common in overlap.items():
        if t == VOID or p == VOID or true[t] != predicted[p]:
            continue
        iou = common / (true_area[t] + area[p] - unlabelled[p] - common)
        if iou > 0.5:
            tallies[true[t]].iou += iou
            tallies[true[t]].matched += 1
            matched_true.add(t)
            matched.add(p)
    for t in true.keys() - matched_true:
        tallies[true[t]].missed += 1
    for p in predicted.keys() - matched:
        if unlabelled[p] <= 0.5 * area[p]:
            tallies[predicted[p]].wrong += 1
