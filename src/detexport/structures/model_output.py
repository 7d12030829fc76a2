"""Outputs of a model for one image: from ``Instances`` and dicts to tensors by the contract's names."""

import inspect
import math
from typing import Any

from torch import Tensor

from detexport.errors import ExportError
from detexport.structures.boxes import Boxes
from detexport.structures.instances import Instances
from detexport.structures.masks import ROIMasks
from detexport.structures.rotated_boxes import RotatedBoxes

FIELDS = {
    "instances": ("pred_boxes", "scores", "pred_classes", "pred_masks", "pred_keypoints"),
    "proposals": ("proposal_boxes", "objectness_logits"),
}
"""The fields that a contract has for the ``Instances`` of each key of a model's output."""
REQUIRED = {"instances": FIELDS["instances"][:3], "proposals": FIELDS["proposals"]}
"""Those of them that every output has."""
LEFT_OUT = ("pred_keypoint_heatmaps",)
"""Fields that graphs leave out: what they hold for the user is in another field."""
REMEDY = (
    "return the standard fields, define inference(batched_inputs, do_postprocess=False) with raw outputs, or "
    "trace the model with TracingAdapter"
)


def depth_of(module: Any, method: str) -> float:
    """Return how many classes lie between a module's and the one that defines a method; inf if none does."""
    owners = (depth for depth, cls in enumerate(type(module).__mro__) if method in vars(cls))
    return next(owners, math.inf)


def raw_outputs(model: Any, *inputs: Any) -> Any:
    """Call the model's ``inference`` without post-processing, or the model itself.

    The model itself is called if its ``inference`` has no such option, or if its class overrides ``forward``
    and inherits ``inference``.
    """
    inference = getattr(model, "inference", None)
    if (
        inference is not None
        and "do_postprocess" in inspect.signature(inference).parameters
        and depth_of(model, "inference") <= depth_of(model, "forward")
    ):
        return inference(*inputs, do_postprocess=False)
    return model(*inputs)


def fields_of_image(outputs: Any, name: str) -> dict[str, Tensor]:
    """Return the tensors of the outputs for one image, by the contract's names.

    Args:
        outputs: a list of ``Instances`` or of a dict with ``instances``, ``proposals`` or ``sem_seg``; or a
            list of ``Instances`` and one of semantic logits, as ``PanopticFPN.inference`` returns them.
        name: of the model, for errors.

    Returns:
        Boxes as (R, 4) or (R, 5), masks (R, S, S), other fields as they are.

    Raises:
        ExportError: the outputs have another form, lack a field, or have one that no contract has.
    """
    if isinstance(outputs, tuple) and len(outputs) == 2:
        outputs = [{"instances": found, "sem_seg": logits} for found, logits in zip(*outputs, strict=True)]
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], Instances | dict):
        raise _other_form(name, f"{type(outputs).__name__} {outputs!r}"[:120])
    (found,) = outputs
    if isinstance(found, Instances):
        found = {"instances" if found.has("pred_boxes") else "proposals": found}
    fields: dict[str, Tensor] = {}
    for key, value in found.items():
        if key in FIELDS and isinstance(value, Instances):
            fields |= _rows(value, key, name)
        elif key == "sem_seg" and isinstance(value, Tensor):
            fields[key] = value
        else:
            raise _other_form(name, f"output {key!r}, a {type(value).__name__}")
    return fields


def _rows(instances: Instances, key: str, name: str) -> dict[str, Tensor]:
    values = {field: value for field, value in instances.get_fields().items() if field not in LEFT_OUT}
    missing = [field for field in REQUIRED[key] if field not in values]
    other = [field for field in values if field not in FIELDS[key]]
    if missing or other:
        raise _other_form(
            name, f"{key} " + ("without " + missing[0] if missing else f"with the field {other[0]!r}")
        )
    return {field: _tensor_of(value, field, name) for field, value in values.items()}


def _tensor_of(value: Any, field: str, name: str) -> Tensor:
    tensor = value.tensor if isinstance(value, Boxes | RotatedBoxes | ROIMasks) else value
    if not isinstance(tensor, Tensor):
        raise _other_form(name, f"{field} as {type(value).__name__}")
    if field != "pred_masks":
        return tensor
    if tensor.dim() == 4 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if not tensor.is_floating_point() or tensor.shape[1] != tensor.shape[2]:
        raise _other_form(name, f"pred_masks {tuple(tensor.shape)} {tensor.dtype}, pasted into the image")
    return tensor


def _other_form(name: str, got: str) -> ExportError:
    return ExportError(
        f"the outputs of {name} have no contract",
        got=got,
        expected="one dict per image: instances with pred_boxes, scores, pred_classes and, raw, pred_masks "
        "(R, 1, S, S) and pred_keypoints; proposals; sem_seg",
        remedy=REMEDY,
    )
