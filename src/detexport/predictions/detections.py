"""The detections of one image as numpy arrays, named as in ``detexport predict --json``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.errors import DetexportError, memory_guard
from detexport.outputs import Outputs, count_rows
from detexport.predictions.drawing import draw, save_drawing
from detexport.predictions.predict_images import to_plain


class MissingOutputError(DetexportError, AttributeError):
    """A model does not predict what was asked for; ``hasattr`` is False for it."""


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What a model predicts for one image. Boxes, keypoints and masks are in px of that image.

    A property that the model does not predict raises ``MissingOutputError``: a detector of boxes has no
    ``masks``, a semantic segmentation no ``boxes``. ``len`` is the number of detections, or of proposals.

    Args:
        image: the image, uint8 (3, height, width), in the contract's channel order.
        outputs: what ``detexport.processing.postprocess`` returns, with its names.
        contract: the model's contract; it names the classes.
    """

    image: np.ndarray
    outputs: Outputs
    contract: Contract

    @property
    def height(self) -> int:
        """Height of the image in px."""
        return int(self.image.shape[1])

    @property
    def width(self) -> int:
        """Width of the image in px."""
        return int(self.image.shape[2])

    @property
    def boxes(self) -> np.ndarray:
        """(R, 4) float32, x0, y0, x1, y1 in px, clipped to the image."""
        return self._array("pred_boxes", "boxes")

    @property
    def scores(self) -> np.ndarray:
        """(R,) float32 in [0, 1], descending."""
        return self._array("scores", "scores")

    @property
    def classes(self) -> np.ndarray:
        """(R,) int64, index into the contract's class names."""
        return self._array("pred_classes", "classes")

    @property
    def class_names(self) -> list[str]:
        """R names; ``class 3`` where the contract names no classes."""
        return [self.contract.class_name(index) for index in self.classes.tolist()]

    @property
    def masks(self) -> np.ndarray:
        """(R, height, width) bool."""
        return self._array("pred_masks", "masks")

    @property
    def keypoints(self) -> np.ndarray:
        """(R, K, 3) float32: x and y in px, and a score."""
        return self._array("pred_keypoints", "keypoints")

    @property
    def proposal_boxes(self) -> np.ndarray:
        """(P, 4) float32, x0, y0, x1, y1 in px, clipped to the image."""
        return self._array("proposal_boxes", "proposal_boxes")

    @property
    def objectness_logits(self) -> np.ndarray:
        """(P,) float32, descending."""
        return self._array("objectness_logits", "objectness_logits")

    @property
    def sem_seg(self) -> np.ndarray:
        """(C, height, width) float32 logits; ``argmax(0)`` is the class of each pixel."""
        return self._array("sem_seg", "sem_seg")

    @property
    def panoptic_seg(self) -> np.ndarray:
        """(height, width) int32, the id of each pixel's segment, 0 for none."""
        return self._array("panoptic_seg", "panoptic_seg")

    @property
    def segments_info(self) -> list[dict[str, Any]]:
        """A dict for each segment of ``panoptic_seg``; see ``combine_panoptic`` for its keys."""
        self._array("panoptic_seg", "segments_info")
        segments: list[dict[str, Any]] = self.outputs["segments_info"]
        return segments

    def __len__(self) -> int:
        """Return the number of detections or proposals; 0 for a model that predicts neither."""
        return count_rows(self.outputs)

    def __repr__(self) -> str:
        """Name the outputs and their number, without the arrays."""
        return f"Detections({len(self)} in {self.width} x {self.height} px: {', '.join(self.outputs)})"

    def to_plain(self) -> dict[str, Any]:
        """Return ``height``, ``width`` and the outputs as plain values for JSON.

        Masks are in COCO's compressed RLE: see ``detexport.predictions.predict_images.to_plain``.
        """
        with memory_guard(self.image.shape):
            return {"height": self.height, "width": self.width, **to_plain(self.outputs, self.contract)}

    def save_drawing(self, path: Path | str, *, min_score: float = 0.0) -> None:
        """Write the image with the detections drawn over it, in the image's own size.

        Args:
            path: the file, such as ``drawn.png``; its suffix is the format.
            min_score: detections with a lower score are not drawn.
        """
        size = (self.height, self.width)
        with memory_guard(self.image.shape):
            overlay = draw(self.outputs, self.contract, size, min_score=min_score)
            save_drawing(Path(path), self.image, self.contract.channel_order, overlay)

    def _array(self, field: str, name: str) -> np.ndarray:
        if field not in self.outputs:
            raise MissingOutputError(
                f"the model predicts no {name}",
                got=f"a model of {', '.join(self.contract.results)} ({', '.join(self.outputs)})",
                expected=f"a model that predicts {name}",
                remedy=f"check hasattr(detections, {name!r}), or load an artifact of another model",
            )
        array: np.ndarray = self.outputs[field]
        return array
