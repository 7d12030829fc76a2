"""The largest errors that an artifact may have against the eager model."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from detexport.errors import ConfigError

RATIOS = ("mask_area_ratio", "keypoint_flip_ratio", "panoptic_ratio")
STRICTER_IF_HIGHER = ("pair_iou",)
"""All other limits are stricter the lower they are."""
LARGEST_RATIO = 0.99


@dataclass(frozen=True)
class Tolerance:
    """The largest errors that an artifact may have; ``conf/parity/default.yaml`` has values and reasons.

    Args:
        box_px: of a box's coordinates, in px of the graph's input; multiplied by the scale of the output.
        box_floor_px: of a box's coordinates, in px of the output, if ``box_px`` times the scale is less.
        score: of a score; detections whose scores differ by no more are tied.
        objectness: of a proposal's logit; proposals whose logits differ by no more are tied.
        mask_px: pixels of a mask that may differ, whatever its area.
        mask_area_ratio: fraction of a mask's area that may differ, if that is more.
        keypoint_px: of a keypoint's x and y, in px of the graph's input; multiplied by the scale of the
            output.
        keypoint_flip_ratio: fraction of the keypoints that may move to another heatmap cell: between equally
            high cells rounding decides.
        keypoint_score: of every keypoint's score, relative, those in another cell included.
        sem_seg: of a logit of semantic segmentation.
        panoptic_ratio: fraction of the image's pixels that may belong to another segment.
        pair_iou: detections of one class with a smaller IoU are different objects.
    """

    box_px: float
    box_floor_px: float
    score: float
    objectness: float
    mask_px: float
    mask_area_ratio: float
    keypoint_px: float
    keypoint_flip_ratio: float
    keypoint_score: float
    sem_seg: float
    panoptic_ratio: float
    pair_iou: float

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ConfigError: a limit is not a finite number of at least 0, a ratio is 1 or more, or the IoU is not
                in (0, 1].
        """
        wrong = {
            name: value
            for name, value in asdict(self).items()
            if not (math.isfinite(value) and value >= 0)
            or (name in RATIOS and value >= 1)
            or (name == "pair_iou" and not 0 < value <= 1)
        }
        if wrong:
            raise ConfigError(
                "a tolerance is not a limit",
                got=", ".join(f"{name}={value}" for name, value in wrong.items()),
                expected="finite numbers of at least 0; ratios below 1; pair_iou above 0 and at most 1",
                remedy="correct parity.tolerance",
            )

    def widened(self, needs: Mapping[str, float]) -> "Tolerance":
        """Return the tolerance with each limit at least as large as needed.

        A mask passes by its pixels or by its area. If both limits are too small, the one that has to grow by
        the smaller factor is widened.

        Args:
            needs: smallest limits, by name; a ratio stays below 1.
        """
        effective = {
            name: max(getattr(self, name), min(need, LARGEST_RATIO) if name in RATIOS else need)
            for name, need in needs.items()
        }
        masks = [name for name in ("mask_px", "mask_area_ratio") if name in needs]
        if masks:
            growth = {name: self.growth(name, needs[name]) for name in masks}
            grows = min(masks, key=lambda name: growth[name])
            effective |= {name: getattr(self, name) for name in masks if name != grows}
        return replace(self, **effective)

    def growth(self, name: str, need: float) -> float:
        """Return the factor by which a limit has to grow; infinite for a limit of 0."""
        limit: float = getattr(self, name)
        return need / limit if limit else float("inf")

    def limit(self, name: str, scale: float) -> float:
        """Return a limit by name; one of px is in px of the output.

        Args:
            name: of the limit.
            scale: output size / input size.
        """
        value: float = getattr(self, name)
        if name == "box_px":
            return max(value * scale, self.box_floor_px)
        return value * scale if name == "keypoint_px" else value
