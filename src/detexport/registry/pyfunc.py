"""The registered model's code: encoded images in, what it sees in them out.

MLflow copies this file into the model and runs it where the model is loaded (models from code). It imports no
more of the package than a prediction needs: an ONNX model does not import torch.
"""

import base64
import binascii
import json
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel
from pycocotools import mask as coco_mask

import detexport
from detexport.contract import Contract
from detexport.data.coco import decode_image
from detexport.data.resize import resize_image, resized_size
from detexport.errors import DataError
from detexport.files import sha256_file
from detexport.postprocess import postprocess
from detexport.runtime.session import memory_guard

# Fields whose values are the column's.
PLAIN_COLUMNS = {
    "pred_boxes": "boxes",
    "scores": "scores",
    "pred_classes": "classes",
    "pred_keypoints": "keypoints",
    "proposal_boxes": "proposal_boxes",
    "objectness_logits": "objectness_logits",
}


class Detector(PythonModel):
    """A detection model behind MLflow's pyfunc interface; the signature says what it takes and gives."""

    def load_context(self, context: Any) -> None:
        """Open the artifact in its target's runtime, which checks the artifact's digests first.

        Args:
            context: ``artifacts["artifact"]`` is the folder as it was exported, ``artifacts["target"]`` a
                JSON file with the target's ``runtime`` and the digests of this model's ``code``;
                ``model_config["device"]`` is where it runs.
        """
        target = json.loads(Path(context.artifacts["target"]).read_text(encoding="utf-8"))
        _compare_code(target["code"])
        options = dict(target["runtime"])
        module, _, name = options.pop("_target_").rpartition(".")
        engine = getattr(import_module(module), name)(**options)
        self.session = engine.open(Path(context.artifacts["artifact"]), context.model_config["device"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Run the model on encoded images of any sizes, one after another.

        Args:
            context: not used.
            model_input: the column ``image`` holds a PNG or JPEG file's bytes a row, or those in base64.
            params: ``score_threshold``, of a model of instances; only those with a greater score are given.

        Returns:
            A row an image: ``height`` and ``width`` in px, and what the model gives. Instances: ``boxes``
            [x0, y0, x1, y1] in px of the image, ``scores``, ``classes``, ``class_names``, ``masks`` (COCO's
            compressed RLE), ``keypoints``, a list of [x, y, score] each. Proposals: ``proposal_boxes``,
            ``objectness_logits``. Semantic segmentation: ``sem_seg``, for each class that is in the image
            ``class``, ``class_name`` and ``mask``, the pixels in which its logit is the highest. Panoptic
            segmentation: ``panoptic_seg``, for each segment ``id``, ``isthing``, ``class``, ``class_name``,
            ``instance`` (a thing's index in the lists above, -1 for stuff) and ``mask``.

        Raises:
            MlflowException: a row is not an image, or ``score_threshold`` is not in [0, 1].
        """
        threshold = float((params or {}).get("score_threshold", 0.0))
        if not 0 <= threshold <= 1:
            raise MlflowException.invalid_parameter_value(
                f"score_threshold is a number in [0, 1], got {threshold}"
            )
        rows = [self._detect(*item, threshold) for item in enumerate(model_input["image"])]
        return pd.DataFrame(rows, index=model_input.index)

    def _detect(self, row: int, encoded: Any, threshold: float) -> dict[str, Any]:
        contract = self.session.artifact.contract
        try:
            image = decode_image(_to_bytes(encoded), contract.channel_order)
        except DataError as error:
            # A service answers this kind with 400 and the message, any other with a stack trace.
            raise MlflowException.invalid_parameter_value(f"row {row}: {error}") from error
        height, width = image.shape[1:]
        resized = resize_image(image, resized_size(height, width, contract.resize))
        with memory_guard(resized.shape):
            outputs = self.session(resized, (height, width))
            if "scores" in outputs:
                kept = outputs["scores"] > threshold
                outputs |= {name: outputs[name][kept] for name in contract.row_names}
            fields = postprocess(outputs, resized.shape[1:], (height, width), contract)
        return _to_row(fields, contract) | {"height": height, "width": width}


def _to_bytes(encoded: Any) -> bytes:
    """The bytes of an encoded image; MLflow's scoring server decodes base64, its other ways in do not."""
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise DataError(
            "this is not an encoded image",
            got=f"{type(encoded).__name__}: {error}",
            expected="the bytes of a PNG or JPEG file, or those in base64",
            remedy="send the file as it is, not its pixels",
        ) from error


def _to_row(fields: dict[str, Any], contract: Contract) -> dict[str, Any]:
    """Post-processed outputs as plain Python values, which JSON takes."""
    row: dict[str, Any] = {}
    for name, column in PLAIN_COLUMNS.items():
        if name in fields:
            row[column] = fields[name].tolist()
    if "pred_classes" in fields:
        row["class_names"] = [contract.class_names[index] for index in row["classes"]]
    if "pred_masks" in fields:
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
        name = contract.stuff_class_names[label]
        yield {"class": label, "class_name": name, "mask": _to_rle(labels == label)}


def _to_segment(segment: dict[str, Any], panoptic_seg: np.ndarray, contract: Contract) -> dict[str, Any]:
    names = contract.class_names if segment["isthing"] else contract.stuff_class_names
    return {
        "id": segment["id"],
        "isthing": segment["isthing"],
        "class": segment["category_id"],
        "class_name": names[segment["category_id"]],
        "instance": segment.get("instance_id", -1),
        "mask": _to_rle(panoptic_seg == segment["id"]),
    }


def _to_rle(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed RLE, its counts a str."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _compare_code(digests: dict[str, str]) -> None:
    """Warn where the process had loaded another ``detexport`` than this model was registered with."""
    root = Path(detexport.__file__).parent
    others = [path for path, sha256 in digests.items() if _digest(root / path) != sha256]
    if others:
        warnings.warn(
            f"this model runs with another detexport than it was registered with: {root} differs in "
            f"{', '.join(others)}; load it in a fresh process to run it with its own",
            stacklevel=2,
        )


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


mlflow.models.set_model(Detector())
