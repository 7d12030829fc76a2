"""Reference models of newer families, with the outputs that an independent implementation computed.

The environment variable ``DETEXPORT_ORACLE_NEW_MODELS`` names a folder with one folder a case: ``meta.json``,
``config.yaml``, the checkpoint that ``meta.json`` names, ``inputs.npz``, ``outputs.npz`` and, except for
test-time augmentation, ``intermediates.npz``. A case whose configuration is lazy also has ``model.py``.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.checkpoint import load_weights, read_state_dict

FOLDER = os.environ.get("DETEXPORT_ORACLE_NEW_MODELS")
needs_new_models = pytest.mark.skipif(FOLDER is None, reason="DETEXPORT_ORACLE_NEW_MODELS names no folder")

BOX_PX, ANGLE_DEGREES, SCORE = 1e-2, 2e-2, 2e-4
MASK_PX, MASK_FRACTION = 5, 5e-3
MAP_PIXELS = 1e-3
ATOL = {
    "input_tensor": 1e-3,
    "bottom_up": 1e-3,
    "net": 1e-3,
    "backbone": 1e-3,
    "rpn": 2e-3,
    "box": 4e-3,
    "fcos": 5e-3,
    "aspp": 1e-3,
    "sem_seg": 2e-3,
    "center": 1e-3,
    "offset": 1e-3,
}
"""Absolute tolerance of a stored tensor, by the start of its name."""

Watched = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """A reference model.

    Args:
        folder: of the case.
    """

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads((self.folder / "meta.json").read_text())
        return meta

    def stored(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of ``inputs``, ``outputs`` or ``intermediates``."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    def batch(self) -> list[dict[str, Any]]:
        """Return the inputs of the model."""
        arrays = self.stored("inputs")
        count = sum(name.endswith("_image") for name in arrays)
        return [
            {
                "image": torch.from_numpy(arrays[f"im{index}_image"]),
                "height": int(arrays[f"im{index}_height"]),
                "width": int(arrays[f"im{index}_width"]),
            }
            for index in range(count)
        ]

    def load(self, model: nn.Module) -> Any:
        """Load the checkpoint, which must hold every parameter, and return the model in evaluation mode."""
        report = load_weights(model, read_state_dict(self.folder / self.meta["checkpoint"]))
        assert report.complete, report
        return model.eval()


def cases(chosen: Callable[[Case], bool] = lambda case: True) -> list[Any]:
    """Return the cases as parameters of a test; without a folder, one that is skipped visibly."""
    if FOLDER is None:
        return [pytest.param(None, id="no_folder")]
    found = [Case(path.parent) for path in sorted(Path(FOLDER).glob("*/meta.json"))]
    assert found, f"no folder with a meta.json in {FOLDER}"
    return [pytest.param(case, id=case.folder.name) for case in found if chosen(case)]


def run(model: Any, case: Case, watched: Watched = {}) -> tuple[list[dict[str, Any]], dict[str, Any]]:  # noqa: B006
    """Return the model's outputs, and the outputs of modules under the names in ``watched``.

    Args:
        model: in evaluation mode.
        case: gives the inputs.
        watched: names by the path of a module; the inputs of ``backbone`` are under ``input_tensor``.
    """
    seen: dict[str, Any] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: Any, output: Any) -> None:
            seen.setdefault(name, output)
            if name == "backbone":
                seen.setdefault("input_tensor", inputs[0])

        return hook

    modules = dict(model.named_modules())
    handles = [
        modules[path].register_forward_hook(remember(name))
        for path, name in watched.items()
        if path in modules
    ]
    with torch.no_grad():
        outputs = model(case.batch())
    for handle in handles:
        handle.remove()
    assert len(outputs) == len(case.batch())
    return outputs, seen


def check_map(stored: Mapping[str, np.ndarray], name: str, value: Tensor) -> None:
    """Compare a tensor with the stored shape, corner, mean and deviation."""
    atol = next(limit for start, limit in ATOL.items() if name.startswith(start))
    np.testing.assert_array_equal(value.shape, stored[f"{name}_shape"], err_msg=name)
    corner = stored[f"{name}_slice"]
    part = value[tuple(slice(0, size) for size in corner.shape)]
    np.testing.assert_allclose(part.numpy(), corner, rtol=0, atol=atol, err_msg=name)
    moments = [value.double().mean(), value.double().std(correction=0)]
    np.testing.assert_allclose(moments, stored[f"{name}_mean_std"], rtol=1e-3, atol=1e-3, err_msg=name)


def check_maps(stored: Mapping[str, np.ndarray], group: str, maps: Mapping[str, Tensor]) -> None:
    """Compare named tensors; every stored one of the group must be among them."""
    expected = {name.removesuffix("_shape") for name in stored if name.endswith("_shape")}
    expected = {name for name in expected if name.startswith(f"{group}_")}
    assert expected == {f"{group}_{name}" for name in maps}
    for name, value in maps.items():
        check_map(stored, f"{group}_{name}", value)


def check_rpn(
    stored: Mapping[str, np.ndarray], head: Any, proposals: Any, field: str = "proposal_boxes"
) -> None:
    """Compare logits and deltas of each level, and the best proposals of each image."""
    logits, deltas = head
    for level in range(len(logits)):
        check_map(stored, f"rpn_logits_lvl{level}", logits[level])
        check_map(stored, f"rpn_deltas_lvl{level}", deltas[level])
    for image, found in enumerate(proposals[0]):
        assert len(found) == stored[f"im{image}_rpn_count"]
        boxes = getattr(found, field).tensor[:50].numpy()
        check_boxes(boxes, stored[f"im{image}_rpn_proposal_boxes_top50"], 1.0)
        np.testing.assert_allclose(
            found.objectness_logits[:50],
            stored[f"im{image}_rpn_objectness_logits_top50"],
            rtol=0,
            atol=ATOL["rpn"],
        )


def check_box_head(stored: Mapping[str, np.ndarray], stage: int, predicted: Any) -> None:
    """Compare the first logits and deltas of a box predictor."""
    logits, deltas = predicted
    first = {"rtol": 0, "atol": ATOL["box"]}
    np.testing.assert_array_equal(logits.shape, stored[f"box_cls_logits_stage{stage}_shape"])
    np.testing.assert_allclose(logits[:50], stored[f"box_cls_logits_stage{stage}_first50"], **first)
    np.testing.assert_allclose(deltas[:50], stored[f"box_deltas_stage{stage}_first50"], **first)


def check_boxes(actual: np.ndarray, expected: np.ndarray, scale: float) -> None:
    """Compare boxes (R, 4) or rotated boxes (R, 5), whose angles are equal modulo 360 degrees."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual[:, :4], expected[:, :4], rtol=0, atol=BOX_PX * scale)
    turned = (actual[:, 4:] - expected[:, 4:] + 180) % 360 - 180
    np.testing.assert_allclose(turned, np.zeros_like(turned), atol=ANGLE_DEGREES)


def check_instances(case: Case, index: int, found: Any) -> None:
    """Compare the detections of an image, in order."""
    stored, prefix = case.stored("outputs"), f"im{index}_"
    example = case.batch()[index]
    height, width = example["image"].shape[1:]
    scale = max(example["height"] / height, example["width"] / width, 1.0)
    assert found.image_size == tuple(stored[f"{prefix}image_size"])
    np.testing.assert_array_equal(found.pred_classes, stored[f"{prefix}pred_classes"])
    np.testing.assert_allclose(found.scores, stored[f"{prefix}scores"], rtol=0, atol=SCORE)
    rotated = f"{prefix}pred_boxes_rotated"
    boxes = stored[rotated] if rotated in stored else stored[f"{prefix}pred_boxes"]
    check_boxes(found.pred_boxes.tensor.numpy(), boxes, scale)
    assert found.has("pred_masks") == (f"{prefix}pred_masks_shape" in stored)
    if found.has("pred_masks"):
        shape = stored[f"{prefix}pred_masks_shape"]
        bits = np.unpackbits(stored[f"{prefix}pred_masks_packed"], count=int(np.prod(shape)))
        masks = bits.reshape(shape).astype(bool)
        actual = found.pred_masks.numpy()
        assert actual.shape == masks.shape
        wrong = (actual != masks).sum(axis=(1, 2))
        limits = np.maximum(MASK_PX, MASK_FRACTION * masks.sum(axis=(1, 2)))
        assert (wrong <= limits).all(), (wrong, limits)


def check_classes_of_pixels(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare maps of classes or panoptic ids, of which a few pixels may differ."""
    assert actual.shape == expected.shape
    assert (actual != expected).mean() <= MAP_PIXELS


def check_sem_seg(case: Case, index: int, logits: Tensor) -> None:
    """Compare the logits of each pixel, stored whole, or thinned out with their class map."""
    stored, prefix = case.stored("outputs"), f"im{index}_"
    close = {"rtol": 0, "atol": ATOL["sem_seg"]}
    if f"{prefix}sem_seg" in stored:
        np.testing.assert_allclose(logits, stored[f"{prefix}sem_seg"], **close)
        return
    np.testing.assert_array_equal(logits.shape, stored[f"{prefix}sem_seg_shape"])
    np.testing.assert_allclose(logits[:, ::8, ::8], stored[f"{prefix}sem_seg_every8"], **close)
    check_classes_of_pixels(logits.argmax(dim=0).numpy(), stored[f"{prefix}sem_seg_argmax"])
