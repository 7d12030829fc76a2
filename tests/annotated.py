"""The annotations of a data set as the outputs of a model that finds everything."""

from collections.abc import Iterator

import numpy as np
from pycocotools.coco import COCO

from detexport.data.coco import CocoDataset

Prediction = tuple[int, dict[str, np.ndarray]]


def ground_truth(dataset: CocoDataset) -> Iterator[Prediction]:
    """Yield the annotations as predictions."""
    coco = COCO(str(dataset.annotation_file))
    for record in dataset.images:
        boxes = np.array([a["bbox"] for a in record.annotations], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [coco.annToMask(coco.anns[a["id"]]).astype(bool) for a in record.annotations]
        yield (
            record.image_id,
            {
                "pred_boxes": boxes,
                "scores": np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
                "pred_classes": np.array([a["category_id"] for a in record.annotations], dtype=np.int64),
                "pred_masks": np.reshape(masks, (len(boxes), record.height, record.width)).astype(bool),
            },
        )


def ground_truth_keypoints(dataset: CocoDataset, shift_px: float = 0.0) -> Iterator[Prediction]:
    """Yield the annotated keypoints, at the centres of their pixels, as predictions."""
    for (image_id, outputs), record in zip(ground_truth(dataset), dataset.images, strict=True):
        found = np.array([a["keypoints"] for a in record.annotations], np.float32).reshape(-1, 5, 3)
        yield image_id, {**outputs, "pred_keypoints": found + np.float32([0.5 + shift_px, 0.5, 0])}
