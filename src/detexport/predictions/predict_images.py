"""Run an artifact on a decoded image; return its outputs as arrays or plain values, without torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detexport.contract import Contract
from detexport.data.resize import resize_image, resized_size
from detexport.errors import memory_guard
from detexport.processing.postprocess import postprocess
from detexport.runtime.session import Session

THRESHOLD, MASKS = "score_threshold", "masks"
PARAMETERS = {THRESHOLD: "scores", MASKS: "pred_masks"}
"""The parameters of a call: the output that a graph has if the parameter has a meaning for it."""
# Fields that become a column unchanged.
PLAIN_COLUMNS = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_classes": "classes",
    "pred_keypoints": "keypoints",
    "proposal_boxes": "proposal_boxes",
    "objectness_logits": "objectness_logits",
}


def predict(
    session: Session, image: np.ndarray, score_threshold: float = 0.0, *, masks: bool = True
) -> dict[str, Any]:
    """Resize an image by the contract's rule, run the graph, and post-process its outputs.

    Args:
        session: the loaded artifact.
        image: uint8 (3, H, W) in the contract's channel order, of any size.
        score_threshold: only instances with a greater score are returned.
        masks: False leaves out the masks of instances, which are then not pasted, unless they are needed for
            panoptic segmentation.

    Returns:
        The result of ``detexport.processing.postprocess``, in px of ``image``.
    """
    contract = session.artifact.contract
    resized = resize(image, contract)
    with memory_guard(resized.shape):
        outputs = session(resized, image.shape[1:])
        return finish(outputs, resized, image, contract, score_threshold, masks=masks)


def parameters_of(contract: Contract) -> tuple[str, ...]:
    """Return the names of the parameters of a call that have a meaning for a model."""
    return tuple(name for name, field in PARAMETERS.items() if field in contract.output_names)


def resize(image: np.ndarray, contract: Contract) -> np.ndarray:
    """Return an image (3, H, W) in the size that the contract's rule gives it."""
    _, height, width = image.shape
    return resize_image(image, resized_size(height, width, contract.resize))


def finish(
    outputs: dict[str, np.ndarray],
    resized: np.ndarray,
    image: np.ndarray,
    contract: Contract,
    score_threshold: float,
    *,
    masks: bool = True,
) -> dict[str, Any]:
    """Drop instances up to a score threshold, and post-process the others.

    Args:
        outputs: the graph's outputs for ``resized``.
        resized: the result of ``resize``.
        image: the image that was resized.
        contract: the graph's contract.
        score_threshold: only instances with a greater score are returned.
        masks: False leaves out the masks of instances, unless they are needed for panoptic segmentation.
    """
    if "scores" in outputs:
        kept = outputs["scores"] > score_threshold
        outputs = outputs | {name: outputs[name][kept] for name in contract.row_names}
    if not masks and contract.panoptic is None:
        outputs = {name: value for name, value in outputs.items() if name != "pred_masks"}
    return postprocess(outputs, resized.shape[1:], image.shape[1:], contract)


def to_plain(fields: dict[str, Any], contract: Contract, *, masks: bool = True) -> dict[str, Any]:
    """Convert the post-processed outputs of one image to JSON-serializable values.

    Args:
        fields: the result of ``predict``.
        contract: has the class names.
        masks: False leaves out the masks of instances.

    Returns:
        Instances: ``boxes`` [x0, y0, x1, y1] in px of the image, ``scores``, ``classes``, ``class_names``,
        ``masks`` (COCO's compressed RLE), ``keypoints``, a list of [x, y, score] each. Proposals:
        ``proposal_boxes``, ``objectness_logits``. Semantic segmentation: ``sem_seg``, for each class in the
        image ``class``, ``class_name`` and ``mask``, the pixels in which its logit is the highest.
        Panoptic segmentation: ``panoptic_seg``, for each segment ``id``, ``isthing``, ``class``,
        ``class_name``, ``instance`` (a thing's index in the lists above, -1 for stuff) and ``mask``.
    """
    row: dict[str, Any] = {}
    for name, column in PLAIN_COLUMNS.items():
        if name in fields:
            row[column] = fields[name].tolist()
    if "pred_classes" in fields:
        row["class_names"] = [contract.class_name(index) for index in row["classes"]]
    if masks and "pred_masks" in fields:
        row["masks"] = [_to_rle(mask) for mask in fields["pred_masks"]]
    if "sem_seg" in fields:
        row["sem_seg"] = list(_classes_of_pixels(fields["sem_seg"].argmax(0), contract))
    if "panoptic_seg" in fields:
        row["panoptic_seg"] = [
            _to_segment(segment, fields["panoptic_seg"], contract) for segment in fields["segments_info"]
        ]
    return row


def _classes_of_pixels(labels: np.ndarray, contract: Contract) -> Iterator[dict[str, Any]]:
    for label in np.unique(labels).tolist():
        yield {
            "class": label,
            "class_name": contract.class_name(label, stuff=True),
            "mask": _to_rle(labels == label),
        }


def _to_segment(segment: dict[str, Any], panoptic_seg: np.ndarray, contract: Contract) -> dict[str, Any]:
    return {
        "id": segment["id"],
        "isthing": segment["isthing"],
        "class": segment["category_id"],
        "class_name": contract.class_name(segment["category_id"], stuff=not segment["isthing"]),
        "instance": segment.get("instance_id", -1),
        "mask": _to_rle(panoptic_seg == segment["id"]),
    }


def _to_rle(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as COCO's compressed RLE, with ``counts`` as a str."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
