"""Every architecture: eager, trace, script and ONNX agree at each size, and each learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detexport.config.cfg import load_cfg
from detexport.engine.training import seed_everything
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.structures import BitMasks, Boxes, Instances, Keypoints
from makers import maker
from small_architectures import draw

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
# All anchors are learnt from, so that every level has a gradient.
SMALL = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 4096]
POINTS = [
    *("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "", "MODEL.ROI_MASK_HEAD.IN_FEATURES", ["p2"]),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_MASK_HEAD.FC_DIM", 64),
    *("MODEL.POINT_HEAD.IN_FEATURES", ["p2", "p3"], "MODEL.POINT_HEAD.NUM_CLASSES", 5),
    *("MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.SUBDIVISION_STEPS", 3),
    *("MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", 196),
]
ARCHITECTURES: dict[str, list[Any]] = {
    "deformable": [
        *("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, True, True]),
        *("MODEL.RESNETS.DEFORM_MODULATED", True, "MODEL.RESNETS.DEFORM_NUM_GROUPS", 2),
        *("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "diou"),
        *("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 4096),
        *("MODEL.FPN.NORM", "LN", "MODEL.FPN.FUSE_TYPE", "avg", "MODEL.RPN.CONV_DIMS", [-1, 32]),
    ],
    "cascade": [
        *SMALL,
        "MODEL.ROI_HEADS.NAME",
        "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        True,
    ],
    "keypoints": [
        *SMALL,
        "MODEL.MASK_ON",
        False,
        "MODEL.KEYPOINT_ON",
        True,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
        3,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS",
        [32, 32],
    ],
    "c4": [
        "MODEL.BACKBONE.NAME",
        "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES",
        ["res4"],
        "MODEL.ANCHOR_GENERATOR.SIZES",
        [[16, 32, 64]],
        "MODEL.RPN.IN_FEATURES",
        ["res4"],
        "MODEL.ROI_HEADS.NAME",
        "Res5ROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES",
        ["res4"],
        "MODEL.ROI_MASK_HEAD.NUM_CONV",
        0,
    ],
    "pointrend": [
        *(*SMALL, *POINTS, "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
        *("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
    ],
    "implicit pointrend": [
        *(*SMALL, *POINTS, "MODEL.ROI_MASK_HEAD.NAME", "ImplicitPointRendMaskHead"),
        *("MODEL.POINT_HEAD.NAME", "ImplicitPointHead"),
    ],
}
LOSSES = {
    "deformable": {"loss_cls", "loss_box_reg", "loss_mask"},
    "keypoints": {"loss_cls", "loss_box_reg", "loss_keypoint"},
    "c4": {"loss_cls", "loss_box_reg", "loss_mask"},
    "pointrend": {"loss_cls", "loss_box_reg", "loss_mask", "loss_mask_point"},
    "implicit pointrend": {"loss_cls", "loss_box_reg", "loss_l2", "loss_mask_point"},
    "cascade": {f"loss_{part}_stage{k}" for part in ("cls", "box_reg") for k in range(3)} | {"loss_mask"},
}
# Of the random class scores: wide enough to differ, too narrow to saturate.
SPREAD = {
    "deformable": 0.5,
    "cascade": 0.5,
    "c4": 0.01,
    "keypoints": 0.5,
    "pointrend": 0.5,
    "implicit pointrend": 0.5,
}
SIZES = [(64, 96), (33, 65), (97, 31), (1, 1), (128, 128), (50, 70), (160, 45)]


def new_model(architecture: str) -> Any:
    seed_everything(0)
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(ARCHITECTURES[architecture])
    return build_model(cfg)


IMAGES = [draw(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def model(request: pytest.FixtureRequest) -> Any:
    """Random weights whose scores vary, and a threshold that leaves no, one and several detections."""
    model = new_model(request.param).eval()
    heads = model.roi_heads
    for predictor in heads.box_predictor if request.param == "cascade" else [heads.box_predictor]:
        torch.nn.init.normal_(predictor.cls_score.weight, std=SPREAD[request.param])
    for name, parameter in model.named_parameters():
        if "conv2_offset.bias" in name:
            torch.nn.init.normal_(parameter)
    final = heads.final_predictor()
    final.score_threshold = 0.0
    with torch.no_grad():
        best = [model.detect([image])[0]["scores"] for image in IMAGES]
    scores = torch.cat(best).unique()
    # In the widest gap that will do: another runtime's rounding decides nothing.
    for low in (scores[1:] - scores[:-1]).argsort(descending=True).tolist():
        threshold = float(scores[low] + scores[low + 1]) / 2
        counts = [int((found > threshold).sum()) for found in best]
        if {0, 1} <= set(counts) and max(counts) > 1:
            final.score_threshold = threshold
            return model
    raise AssertionError("no threshold leaves no, one and several detections")


def sample(model: Any) -> Tensor:
    counts = [len(model.detect([image])[0]["scores"]) for image in IMAGES]
    return IMAGES[counts.index(max(counts))]


@pytest.fixture(scope="module", params=["trace", "script"])
def graph(model: Any, request: pytest.FixtureRequest) -> Callable[[Tensor], dict[str, Tensor]]:
    names = model.contract(tuple("abcde")).output_names
    if request.param == "script":
        scripted = torch.jit.script(model.batch_graph())
        return lambda image: scripted([image])[0]
    traced = torch.jit.trace(model.image_graph(names), sample(model), check_trace=False)
    return lambda image: dict(zip(names, traced(image), strict=True))


@pytest.mark.parametrize("size", range(len(SIZES)), ids=[f"{h}x{w}" for h, w in SIZES])
def test_graphs_equal_eager_to_the_bit(model: Any, graph: Callable, size: int) -> None:
    with torch.no_grad():
        found, expected = graph(IMAGES[size]), model.detect([IMAGES[size]])[0]
    assert set(model.contract(tuple("abcde")).output_names) <= set(found) <= set(expected)
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name]), name


@pytest.mark.slow
def test_onnx_agrees_with_eager(model: Any, tmp_path: Path) -> None:
    contract = model.contract(tuple("abcde"))
    provenance = Provenance(weights_sha256="w", config_sha256="c")
    recorded = draw(112, 144, 3).numpy()
    maker("onnx").export(model, recorded, tmp_path / "onnx", contract=contract, provenance=provenance)
    session = OnnxRuntime().open(tmp_path / "onnx")
    for image in IMAGES:
        with torch.no_grad():
            expected = model.detect([image])[0]
        actual = session(image.numpy())
        assert set(actual) == set(contract.output_names)
        for name, value in actual.items():
            np.testing.assert_allclose(value, expected[name].numpy(), atol=2e-3, err_msg=name)


@torch.no_grad()
def test_a_batch_gives_what_each_image_gives_alone(model: Any) -> None:
    images = [IMAGES[0], IMAGES[0].flip(2)]
    for image, batched in zip(images, model.detect(images), strict=True):
        (alone,) = model.detect([image])
        assert set(batched) == set(alone)
        for name, value in alone.items():
            torch.testing.assert_close(batched[name], value, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_contract_says_what_the_graph_gives(model: Any) -> None:
    fields = model.detect([sample(model)])[0]
    for spec in model.contract(tuple("abcde")).outputs:
        value = fields[spec.name]
        assert str(value.dtype) == f"torch.{spec.dtype}"
        assert all(want in ("R", size) for want, size in zip(spec.shape, value.shape, strict=True))


def examples() -> list[dict[str, Any]]:
    """Two images, each with two rectangles of their own brightness as objects."""
    batch = []
    for seed in range(2):
        image, boxes = draw(96, 96, seed), torch.tensor([[8, 12, 40, 44], [50, 40, 90, 88.0]])
        masks = torch.zeros(2, 96, 96, dtype=torch.bool)
        for index, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
            masks[index, y0:y1, x0:x1] = True
            image[:, y0:y1, x0:x1] = 120 + 100 * index
        corners = torch.stack((boxes[:, :2], boxes[:, 2:], boxes[:, [0, 3]]), dim=1)
        visible = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
        truth = Instances(
            (96, 96),
            gt_boxes=Boxes(boxes),
            gt_classes=torch.tensor([0, 3]),
            gt_masks=BitMasks(masks),
            gt_keypoints=Keypoints(torch.cat((corners, visible[..., None]), dim=2)),
        )
        batch.append({"image": image, "instances": truth})
    return batch


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_training_lowers_the_losses_and_reaches_every_parameter(architecture: str) -> None:
    model, batch = new_model(architecture).train(), examples()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    totals = []
    for step in range(30):
        losses = model(batch)
        assert {name for name in losses if "rpn" not in name} == LOSSES[architecture]
        total = sum(losses.values())
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            without = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
            assert without == []
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        totals.append(float(total))
    assert np.mean(totals[-3:]) < 0.7 * totals[0]


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("empty", [[0], [0, 1]], ids=["one of two", "all"])
def test_images_without_instances_have_finite_losses(architecture: str, empty: list[int]) -> None:
    batch = examples()
    for index in empty:
        batch[index]["instances"] = batch[index]["instances"][:0]
    model = new_model(architecture).train()
    losses = model(batch)
    assert set(losses) == LOSSES[architecture] | {"loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
