"""Drawings of predictions over the frames of a video, with colours that stay."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detexport.structures import Boxes, pairwise_iou
from detexport.utils.colormap import random_color
from detexport.utils.visualizer import ColorMode, VisImage, Visualizer

SAME_OBJECT_IOU = 0.6


@dataclass
class _Seen:
    """An instance of the last frame."""

    label: int
    box: Any
    color: np.ndarray


class VideoVisualizer:
    """Drawer of the frames of a video in order.

    An object keeps its colour while its boxes in successive frames overlap.

    Args:
        metadata: see ``Visualizer``.
        instance_mode: see ``Visualizer``.
    """

    def __init__(self, metadata: Any, instance_mode: ColorMode = ColorMode.IMAGE) -> None:
        self.metadata = metadata
        self._instance_mode = instance_mode
        self._last: list[_Seen] = []

    def draw_instance_predictions(self, frame: np.ndarray, predictions: Any) -> VisImage:
        """Draw detections over a frame.

        Args:
            frame: (H, W, 3) RGB, 0 to 255.
            predictions: ``Instances`` with ``pred_boxes`` and ``pred_classes`` on the CPU.
        """
        drawer = Visualizer(frame, self.metadata, instance_mode=self._instance_mode)
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist()
        colors: Any = drawer._class_colors(classes) or self._tracked(classes, fields["pred_boxes"])
        return drawer.overlay_instances(
            boxes=fields["pred_boxes"],
            masks=fields.get("pred_masks"),
            labels=drawer._labels(classes, fields.get("scores")),
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=colors,
        )

    def draw_sem_seg(self, frame: np.ndarray, sem_seg: Any, area_threshold: float | None = None) -> VisImage:
        """Draw the classes (H, W) of the pixels of a frame: see ``Visualizer.draw_sem_seg``."""
        return Visualizer(frame, self.metadata).draw_sem_seg(sem_seg, area_threshold)

    def draw_panoptic_seg_predictions(
        self,
        frame: np.ndarray,
        panoptic_seg: Any,
        segments_info: list[dict[str, Any]] | None,
        area_threshold: float | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw the segments of a frame: see ``Visualizer.draw_panoptic_seg``."""
        drawer = Visualizer(frame, self.metadata)
        return drawer.draw_panoptic_seg(panoptic_seg, segments_info, area_threshold, alpha)

    def _tracked(self, classes: list[int], boxes: Boxes) -> list[np.ndarray]:
        """Return the colour of each instance: that of the one of the last frame that it overlaps most."""
        seen = [_Seen(label, box, np.zeros(0)) for label, box in zip(classes, boxes, strict=True)]
        free = list(self._last)
        for one in seen:
            candidates = [other for other in free if other.label == one.label]
            overlaps = [
                pairwise_iou(Boxes(one.box[None]), Boxes(other.box[None])).item() for other in candidates
            ]
            if overlaps and max(overlaps) > SAME_OBJECT_IOU:
                match = candidates[int(np.argmax(overlaps))]
                free = [other for other in free if other is not match]
                one.color = match.color
            else:
                one.color = random_color(rgb=True, maximum=1)
        self._last = seen
        return [one.color for one in seen]
