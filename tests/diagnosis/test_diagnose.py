"""A fault is planted in the model that is exported; the diagnosis names the segment that it is in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.diagnosis.diagnose import POSTPROCESSING, Diagnosis, diagnose
from detexport.diagnosis.picture import save_evidence
from detexport.errors import ExportError
from detexport.runtime.torchscript import TorchScript
from PIL import Image
from trained import picture, trained_model, write

Fault = Callable[[Any], None]


def flip(*path: str) -> Fault:
    """The kernel of a convolution turned upside down, or the columns of a matrix turned round."""

    def plant(model: Any) -> None:
        for one in path:
            weight = model.get_submodule(one).weight
            weight.data = weight.data.flip(weight.dim() - 2 if weight.dim() == 4 else 1).contiguous()

    return plant


def swap_channels(path: str) -> Fault:
    def plant(model: Any) -> None:
        weight = model.get_submodule(path).weight
        weight.data[[0, 1]] = weight.data[[1, 0]]

    return plant


def set_value(path: str, value: Any) -> Fault:
    def plant(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        assert getattr(model.get_submodule(owner), name) != value
        setattr(model.get_submodule(owner), name, value)

    return plant


def swap_colours(model: Any) -> None:
    model.pixel_mean = model.pixel_mean.flip(0) + torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)


class InHalf(nn.Module):
    """A layer that computes in half precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.half()).float()


def halve(path: str) -> Fault:
    def plant(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, InHalf(model.get_submodule(path)))

    return plant


def diagnose_planted(name: str, fault: Fault, method: str, folder: Path) -> Diagnosis:
    """The model as it should be against an artifact of a faulty copy."""
    faulty = trained_model(name)
    fault(faulty)
    artifact_dir = write(faulty, method, folder)
    return diagnose(trained_model(name), artifact_dir, picture(), exported_model=faulty)


# The model, the segment, and a fault in it.
FAULTS: list[tuple[str, str, Fault]] = [
    ("mask_rcnn", "preprocess", set_value("size_divisibility", 64)),
    ("mask_rcnn", "preprocess", swap_colours),
    ("mask_rcnn", "stem", set_value("backbone.bottom_up.stem.conv1.padding_mode", "circular")),
    ("mask_rcnn", "res2", swap_channels("backbone.bottom_up.res2.0.conv1")),
    ("mask_rcnn", "res4", set_value("backbone.bottom_up.res4.0.conv1.relu", False)),
    ("mask_rcnn", "p5", flip("backbone.fpn_output5")),
    ("mask_rcnn", "p2", set_value("backbone.fpn_output2.bias", None)),
    ("mask_rcnn", "rpn_head", swap_channels("proposal_generator.rpn_head.anchor_deltas")),
    ("mask_rcnn", "rpn_head", halve("proposal_generator.rpn_head.conv")),
    ("mask_rcnn", "proposals", set_value("proposal_generator.nms_threshold", 0.3)),
    ("mask_rcnn", "proposals", set_value("proposal_generator.post_nms_topk_test", 20)),
    ("mask_rcnn", "box_pooled", set_value("roi_heads.box_pooler.aligned", False)),
    ("mask_rcnn", "box_pooled", set_value("roi_heads.box_pooler.scales", [0.25, 0.125, 0.0625, 1 / 31])),
    ("mask_rcnn", "box_head", flip("roi_heads.box_head.fc1")),
    ("mask_rcnn", "box_inference", set_value("roi_heads.box_predictor.nms_threshold", 0.1)),
    ("mask_rcnn", "box_inference", set_value("roi_heads.box_predictor.score_threshold", 0.6)),
    ("mask_rcnn", "mask_pooled", set_value("roi_heads.mask_pooler.sampling_ratio", 1)),
    ("mask_rcnn", "mask_head", halve("roi_heads.mask_head.mask_fcn1")),
    ("keypoint_rcnn", "keypoint_pooled", set_value("roi_heads.keypoint_pooler.aligned", False)),
    ("keypoint_rcnn", "keypoint_head", flip("roi_heads.keypoint_head.score_lowres")),
    ("retinanet", "retinanet_head", flip("head.cls_score")),
    ("retinanet", "detections", set_value("nms_threshold", 0.1)),
    ("cascade_mask_rcnn", "stage1_head", flip("roi_heads.box_head.1.fc1")),
    ("cascade_mask_rcnn", "stage2_boxes", set_value("roi_heads.box_predictor.2.box_weights", [9.0] * 4)),
    ("pointrend", "coarse_mask_head", flip("roi_heads.mask_head.coarse_head.fc1")),
    ("pointrend", "point_head", swap_channels("roi_heads.mask_head.point_head.fc1")),
    ("panoptic_fpn", "sem_seg_head", swap_channels("sem_seg_head.predictor")),
]


@pytest.mark.parametrize(("name", "segment", "fault"), FAULTS, ids=[f"{a}-{b}-{i}" for i, (a, b, _) in enumerate(FAULTS)])
def test_a_fault_is_named_in_a_trace(name: str, segment: str, fault: Fault, tmp_path: Path) -> None:
    found = diagnose_planted(name, fault, "tracing", tmp_path)
    assert found.first is not None
    assert found.first.name == segment, found.sentence
    assert found.sentence.startswith(f"The first divergence is {segment}")
    assert not found.unknown
