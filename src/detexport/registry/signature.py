"""The registered model's MLflow signature, derived from the contract."""

from typing import Any

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from detexport.contract import Contract, TensorSpec
from detexport.predictions.predict_images import MASKS, THRESHOLD, parameters_of

DEFAULT_THRESHOLD = 0.0
PARAMS = {
    THRESHOLD: ParamSpec(THRESHOLD, DataType.double, DEFAULT_THRESHOLD),
    MASKS: ParamSpec(MASKS, DataType.boolean, True),
}
"""Only instances with a greater score are returned; False leaves out the masks of instances."""
LONGS, DOUBLES, STRINGS = Array(DataType.long), Array(DataType.double), Array(DataType.string)
RLE = Object([Property("size", LONGS), Property("counts", DataType.string)])
CLASS = [Property("class", DataType.long), Property("class_name", DataType.string)]
SEGMENT = [
    Property("id", DataType.long),
    Property("isthing", DataType.boolean),
    *CLASS,
    Property("instance", DataType.long),
    Property("mask", RLE),
]
# The columns of each field.
COLUMNS = {
    "pred_boxes": [ColSpec(Array(DOUBLES), "boxes")],
    "scores": [ColSpec(DOUBLES, "scores")],
    "pred_classes": [ColSpec(LONGS, "classes"), ColSpec(STRINGS, "class_names")],
    # Optional: a call may leave them out.
    "pred_masks": [ColSpec(Array(RLE), MASKS, required=False)],
    "pred_keypoints": [ColSpec(Array(Array(DOUBLES)), "keypoints")],
    "proposal_boxes": [ColSpec(Array(DOUBLES), "proposal_boxes")],
    "objectness_logits": [ColSpec(DOUBLES, "objectness_logits")],
    "sem_seg": [ColSpec(Array(Object([*CLASS, Property("mask", RLE)])), "sem_seg")],
    "panoptic_seg": [ColSpec(Array(Object(SEGMENT)), "panoptic_seg")],
}


def build_signature(contract: Contract) -> ModelSignature:
    """Return the signature of ``Detector``: a column of images in, one row per image out."""
    given = {*contract.output_names, *contract.results}
    columns = [column for name, of_field in COLUMNS.items() if name in given for column in of_field]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema([*columns, ColSpec(DataType.long, "height"), ColSpec(DataType.long, "width")]),
        params=ParamSchema([PARAMS[name] for name in parameters_of(contract)]),
    )


def describe_graph(contract: Contract) -> dict[str, Any]:
    """Return the graph's input and output tensors, for users who run the artifact without the pyfunc."""
    return {
        "inputs": [_describe(spec) for spec in contract.inputs],
        "outputs": [_describe(spec) for spec in contract.outputs],
    }


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape), "meaning": spec.meaning}
