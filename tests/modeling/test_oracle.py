"""Reference models and the outputs that an independent implementation computed for them.

The environment variable ``DETEXPORT_ORACLE`` names a folder with one folder a case: ``config.yaml``, the
checkpoint that it names, ``inputs.npz``, ``outputs.npz``, ``intermediates.npz``.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.parity.compare import compare
from detexport.structures import Boxes, Instances
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE

ORACLE = os.environ.get("DETEXPORT_ORACLE")
CASES = sorted(path.parent for path in Path(ORACLE).glob("*/config.yaml")) if ORACLE else []

LOGITS = {"rtol": 0, "atol": 2e-3}
# Modules whose outputs are compared too, where a model has them.
WATCHED = {
    "backbone": "backbone",
    "proposal_generator": "rpn",
    "proposal_generator.rpn_head": "rpn_head",
    "roi_heads": "roi_heads",
    "head": "retina_head",
    "sem_seg_head": "sem_seg_head",
    "roi_heads.mask_head.coarse_head": "pointrend_coarse",
}

needs_oracle = pytest.mark.skipif(ORACLE is None, reason="DETEXPORT_ORACLE names no folder")
# A probability or a keypoint's score before it decides anything, by device. The references were computed on a
# CPU; between CPU and GPU kernels 3.5e-4 was measured (H200, TF32 off).
INTERMEDIATE = {"cpu": 2e-4, "cuda": 1e-3}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Turn TF32 off: with it convolutions on CUDA round their factors to 10 bits."""
    products = torch.backends.cuda.matmul
    before = torch.backends.cudnn.allow_tf32, products.allow_tf32
    torch.backends.cudnn.allow_tf32 = products.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, products.allow_tf32 = before


def on_cpu(value: Any) -> Any:
    """Copy the tensors of a model's output, however nested, to the CPU."""
    if isinstance(value, Mapping):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value.to("cpu") if isinstance(value, Tensor | Instances) else value


def read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def watch(module: torch.nn.Module, name: str, seen: dict[str, Any]) -> None:
    def remember(_module: Any, inputs: Any, output: Any) -> None:
        seen[name], seen[f"{name}_inputs"] = output, inputs

    module.register_forward_hook(remember)


def expected_detections(outputs: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    fields = {name: outputs[prefix + name] for name in ("pred_boxes", "scores", "pred_classes")}
    if f"{prefix}pred_masks_shape" in outputs:
        shape = outputs[f"{prefix}pred_masks_shape"]
        bits = np.unpackbits(outputs[f"{prefix}pred_masks_packed"], count=int(np.prod(shape)))
        fields["pred_masks"] = bits.reshape(shape).astype(bool)
    for name in ("pred_keypoints", "pred_keypoint_heatmaps_first1"):
        if prefix + name in outputs:
            fields[name] = outputs[prefix + name]
    return fields


def check_map(stored: Mapping[str, np.ndarray], name: str, value: Tensor) -> None:
    np.testing.assert_array_equal(value.shape, stored[f"{name}_shape"], err_msg=name)
    corner = value[:, :4, :8, :8].numpy()
    np.testing.assert_allclose(corner, stored[f"{name}_slice"], **LOGITS, err_msg=name)
    moments = [value.double().mean(), value.double().std(correction=0)]
    np.testing.assert_allclose(moments, stored[f"{name}_mean_std"], rtol=1e-3, atol=1e-3, err_msg=name)


def check_intermediates(stored: Mapping[str, np.ndarray], seen: dict[str, Any], atol: float) -> None:
    check_map(stored, "input_tensor", seen["backbone_inputs"][0])
    maps = seen["backbone"]
    assert {f"backbone_{name}_shape" for name in maps} == {
        name for name in stored if name.startswith("backbone_") and name.endswith("_shape")
    }
    for name, value in maps.items():
        check_map(stored, f"backbone_{name}", value)
    for name, head in (("rpn", "rpn_head"), ("retina", "retina_head")):
        if head in seen:
            logits, deltas = seen[head]
            for level in range(len(logits)):
                check_map(stored, f"{name}_logits_lvl{level}", logits[level])
                check_map(stored, f"{name}_deltas_lvl{level}", deltas[level])
    if "sem_seg_head" in seen:
        check_map(stored, "sem_seg_head_out", seen["sem_seg_head"])
    assert ("rpn" in seen) == ("im0_rpn_count" in stored)
    for image, proposals in enumerate(seen["rpn"][0] if "rpn" in seen else ()):
        assert len(proposals) == stored[f"im{image}_rpn_count"]
        boxes = proposals.proposal_boxes.tensor[:50].numpy()
        np.testing.assert_allclose(boxes, stored[f"im{image}_rpn_proposal_boxes_top50"], atol=1e-2)
        scores = proposals.objectness_logits[:50].numpy()
        np.testing.assert_allclose(scores, stored[f"im{image}_rpn_objectness_logits_top50"], **LOGITS)
    if "roi_heads" in seen:
        check_roi_heads(stored, seen, atol)


def check_roi_heads(stored: Mapping[str, np.ndarray], seen: dict[str, Any], atol: float) -> None:
    stages = [name for name in seen if name.startswith("box_predictor") and not name.endswith("_inputs")]
    assert sum(name.endswith("_first50") for name in stored) == 2 * len(stages)
    for stage, name in enumerate(stages):
        class_logits, box_deltas = seen[name]
        first_logits = stored[f"box_cls_logits_stage{stage}_first50"]
        np.testing.assert_array_equal(class_logits.shape, stored[f"box_cls_logits_stage{stage}_shape"])
        np.testing.assert_allclose(class_logits[:50], first_logits, **LOGITS)
        np.testing.assert_allclose(box_deltas[:50], stored[f"box_deltas_stage{stage}_first50"], **LOGITS)
    assert ("pointrend_coarse" in seen) == ("pointrend_coarse_first2" in stored)
    if "pointrend_coarse" in seen:
        coarse = seen["pointrend_coarse"]
        np.testing.assert_array_equal(coarse.shape, stored["pointrend_coarse_shape"])
        np.testing.assert_allclose(coarse[:2], stored["pointrend_coarse_first2"], **LOGITS)
    if "sem_seg_head" in seen:
        return  # of a panoptic model no raw detections are stored
    for image, instances in enumerate(seen["roi_heads"][0]):
        raw = instances.pred_boxes.tensor.numpy()
        np.testing.assert_allclose(raw, stored[f"im{image}_raw_pred_boxes"], atol=1e-2)
        if f"im{image}_raw_mask_probs_first1" in stored and len(instances):
            masks = instances.pred_masks[:1].numpy()
            np.testing.assert_allclose(masks, stored[f"im{image}_raw_mask_probs_first1"], atol=atol)


def check_detections(
    expected: dict[str, np.ndarray], found: Any, threshold: float, most: int, scale: float, atol: float
) -> None:
    actual = {"pred_boxes": found.pred_boxes.tensor.numpy(), "scores": found.scores.numpy()}
    actual["pred_classes"] = found.pred_classes.numpy()
    if found.has("pred_masks"):
        actual["pred_masks"] = found.pred_masks.numpy()
    assert found.has("pred_keypoints") == ("pred_keypoints" in expected)
    if "pred_keypoints" in expected:
        keypoints, wanted = found.pred_keypoints.numpy(), expected.pop("pred_keypoints")
        np.testing.assert_allclose(keypoints[..., :2], wanted[..., :2], atol=2e-2 * scale)
        np.testing.assert_allclose(keypoints[..., 2], wanted[..., 2], atol=atol)
        heatmaps = found.pred_keypoint_heatmaps[:1].numpy()
        np.testing.assert_allclose(heatmaps, expected.pop("pred_keypoint_heatmaps_first1"), **LOGITS)
    parity = compare(
        expected,
        actual,
        tolerance=TOLERANCE,
        contract=tiny_contract(score_threshold=threshold, max_detections=most),
        scale=scale,
    )
    assert parity.passed, parity.reasons
    assert parity.paired == parity.expected == parity.actual
    # No case has ties: the order is the reference's, too.
    np.testing.assert_array_equal(actual["pred_classes"], expected["pred_classes"])
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=TOLERANCE.score)
    np.testing.assert_allclose(
        actual["pred_boxes"], expected["pred_boxes"], atol=TOLERANCE.limit("box_px", scale)
    )


def check_panoptic(
    outputs: Mapping[str, np.ndarray], prefix: str, ids: Tensor, segments: list[dict[str, Any]]
) -> None:
    wrong = (ids.numpy() != outputs[f"{prefix}panoptic_seg"]).mean()
    assert wrong <= 1e-3
    expected = json.loads(str(outputs[f"{prefix}segments_info"]))
    assert [one.keys() for one in segments] == [one.keys() for one in expected]
    for found, stored in zip(segments, expected, strict=True):
        assert found.pop("score", 0.0) == pytest.approx(stored.pop("score", 0.0), abs=TOLERANCE.score)
        assert found.pop("area", 0) == pytest.approx(stored.pop("area", 0), abs=5)
        assert found == stored


def check_proposals(outputs: Mapping[str, np.ndarray], prefix: str, found: Any) -> None:
    assert found.image_size == tuple(outputs[f"{prefix}image_size"])
    boxes = found.proposal_boxes.tensor.numpy()
    np.testing.assert_allclose(boxes, outputs[f"{prefix}proposal_boxes"], atol=2e-2)
    np.testing.assert_allclose(found.objectness_logits, outputs[f"{prefix}objectness_logits"], **LOGITS)


@needs_oracle
def test_there_are_cases_to_compare() -> None:
    assert CASES, f"no folder with a config.yaml in {ORACLE}"


@needs_oracle
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_outputs(case: Path, device: str) -> None:
    cfg = load_cfg(case / "config.yaml")
    model = build_model(cfg).eval()
    report = load_weights(model, read_state_dict(case / cfg.MODEL.WEIGHTS))
    assert report.complete
    model.to(device)
    seen: dict[str, Any] = {}
    for path, name in WATCHED.items():
        for found, module in model.named_modules():
            if found == path:
                watch(module, name, seen)
    predictors = model.roi_heads.box_predictor if hasattr(model, "roi_heads") else []
    for stage, predictor in enumerate(predictors if hasattr(predictors, "__iter__") else [predictors]):
        watch(predictor, f"box_predictor{stage}", seen)
    inputs, outputs = read_npz(case / "inputs.npz"), read_npz(case / "outputs.npz")
    batch = [
        {
            "image": torch.from_numpy(inputs[f"im{i}_image"]),
            "height": int(inputs[f"im{i}_height"]),
            "width": int(inputs[f"im{i}_width"]),
        }
        for i in range(int(outputs["num_images"]))
    ]
    for i, example in enumerate(batch):
        if f"im{i}_proposal_boxes" in inputs:
            boxes, logits = (inputs[f"im{i}_{name}"] for name in ("proposal_boxes", "objectness_logits"))
            example["proposals"] = Instances(
                tuple(example["image"].shape[1:]),
                proposal_boxes=Boxes(torch.from_numpy(boxes)),
                objectness_logits=torch.from_numpy(logits),
            )
    with torch.no_grad():
        results = on_cpu(model(batch))
    seen = on_cpu(seen)
    check_intermediates(read_npz(case / "intermediates.npz"), seen, INTERMEDIATE[device])
    for i, (example, result) in enumerate(zip(batch, results, strict=True)):
        height, width = example["image"].shape[1:]
        if "sem_seg" in result:
            np.testing.assert_allclose(result["sem_seg"], outputs[f"im{i}_sem_seg"], **LOGITS)
        if "panoptic_seg" in result:
            check_panoptic(outputs, f"im{i}_", *result["panoptic_seg"])
        if "proposals" in result:
            check_proposals(outputs, f"im{i}_", result["proposals"])
        if f"im{i}_pred_boxes" not in outputs:
            assert "instances" not in result
            continue
        assert result["instances"].image_size == tuple(outputs[f"im{i}_image_size"])
        check_detections(
            expected_detections(outputs, f"im{i}_"),
            result["instances"],
            getattr(cfg.MODEL, "RETINANET" if "retina_head" in seen else "ROI_HEADS").SCORE_THRESH_TEST,
            cfg.TEST.DETECTIONS_PER_IMAGE,
            max(example["height"] / height, example["width"] / width),
            INTERMEDIATE[device],
        )
