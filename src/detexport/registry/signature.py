"""What the registered model takes and gives, as MLflow says it; derived from the contract."""

from typing import Any

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

from detexport.contract import Contract, TensorSpec


def build_signature(contract: Contract) -> ModelSignature:
    """The signature of ``Detector``: a column of encoded images in, a row of detections an image out."""
    rle = Object([Property("size", Array(DataType.long)), Property("counts", DataType.string)])
    masks = [ColSpec(Array(rle), "masks")] if "pred_masks" in contract.output_names else []
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(Array(Array(DataType.double)), "boxes"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(Array(DataType.long), "classes"),
                ColSpec(Array(DataType.string), "class_names"),
                *masks,
                ColSpec(DataType.long, "height"),
                ColSpec(DataType.long, "width"),
            ]
        ),
        params=ParamSchema([ParamSpec("score_threshold", DataType.double, 0.0)]),
    )


def describe_graph(contract: Contract) -> dict[str, Any]:
    """The graph's own tensors, which who runs the artifact without the pyfunc needs."""
    return {
        "inputs": [_describe(spec) for spec in contract.inputs],
        "outputs": [_describe(spec) for spec in contract.outputs],
    }


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape), "meaning": spec.meaning}
