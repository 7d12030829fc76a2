"""Heads rest on the documented base classes, and a subclass that overrides a documented method is called."""

from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.layers import ShapeSpec
from detexport.modeling import ROI_KEYPOINT_HEAD_REGISTRY, ROI_MASK_HEAD_REGISTRY, ROIHeads, build_model
from detexport.modeling.meta_arch.instances_model import InstancesModel, exportable
from detexport.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from detexport.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detexport.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead, KRCNNConvDeconvUpsampleHead
from detexport.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detexport.modeling.roi_heads.rotated_fast_rcnn import RotatedFastRCNNOutputLayers, RROIHeads
from detexport.structures import BitMasks, Boxes, Instances
from small_architectures import draw, ground_truth, small_cfg

IMAGE = draw(64, 96, 1)


@pytest.mark.parametrize(
    ("built_in", "base"),
    [
        (MaskRCNNConvUpsampleHead, BaseMaskRCNNHead),
        (KRCNNConvDeconvUpsampleHead, BaseKeypointRCNNHead),
        (RotatedFastRCNNOutputLayers, FastRCNNOutputLayers),
        (StandardROIHeads, ROIHeads),
        (Res5ROIHeads, ROIHeads),
        (CascadeROIHeads, StandardROIHeads),
        (RROIHeads, StandardROIHeads),
    ],
)
def test_built_in_heads_are_of_their_base(built_in: type, base: type) -> None:
    assert issubclass(built_in, base)


def detections() -> list[Instances]:
    boxes = Boxes([[0.0, 0, 16, 8], [4, 4, 12, 18]])
    return [
        Instances((20, 20), pred_boxes=boxes, proposal_boxes=boxes, pred_classes=torch.tensor([1, 0])),
    ]


def test_a_mask_head_is_called_with_features_and_instances() -> None:
    head = MaskRCNNConvUpsampleHead(ShapeSpec(4, height=3, width=3), num_classes=2, conv_dims=[4, 4])
    x, found = torch.randn(2, 4, 3, 3), detections()
    logits = head.layers(x)
    assert torch.equal(head(x), logits)
    assert head.eval()(x, found) is found
    masks = found[0].pred_masks
    torch.testing.assert_close(masks[:, 0], torch.stack((logits[0, 1], logits[1, 0])).sigmoid())
    found[0].gt_classes = torch.tensor([1, 0])
    found[0].gt_masks = BitMasks(torch.ones(2, 20, 20, dtype=torch.bool))
    loss = head.train()(x, found)["loss_mask"]
    assert torch.equal(loss, head.losses([x], found)["loss_mask"])


def test_a_keypoint_head_is_called_with_features_and_instances() -> None:
    head = KRCNNConvDeconvUpsampleHead(ShapeSpec(4, height=2, width=2), num_keypoints=3, conv_dims=[4])
    x, found = torch.randn(2, 4, 2, 2), detections()
    assert torch.equal(head(x), head.layers(x))
    assert head.eval()(x, found) is found
    assert found[0].pred_keypoints.shape == (2, 3, 3)


@ROI_MASK_HEAD_REGISTRY.register()
class FullMasks(MaskRCNNConvUpsampleHead):
    """Overrides the documented method."""

    def forward(self, x: Tensor, instances: Any) -> Any:  # type: ignore[override]
        found = super().forward(x, instances)
        if self.training:
            return {f"own_{name}": loss for name, loss in found.items()}
        for one in found:
            one.pred_masks = torch.ones_like(one.pred_masks)
        return found


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class CornerKeypoints(KRCNNConvDeconvUpsampleHead):
    """Overrides the documented method."""

    def forward(self, x: Tensor, instances: Any) -> Any:  # type: ignore[override]
        if self.training:
            return self.losses(self.layers(x), instances)
        for one in instances:
            corner = one.pred_boxes.tensor[:, None, :2].expand(-1, self.num_keypoints, -1)
            one.pred_keypoints = torch.cat((corner, torch.ones_like(corner[..., :1])), dim=2)
        return instances


@ROI_MASK_HEAD_REGISTRY.register()
class Inverted(MaskRCNNConvUpsampleHead):
    """Overrides the layers alone."""

    def layers(self, x: Tensor) -> Tensor:
        return -super().layers(x)


def model_with(name: str, key: str, head: str) -> Any:
    cfg = small_cfg(name)
    cfg.merge_from_list([key, head])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    return model


@pytest.mark.parametrize(
    ("name", "key", "head", "field"),
    [
        ("mask_rcnn", "MODEL.ROI_MASK_HEAD.NAME", "FullMasks", "pred_masks"),
        ("keypoint_rcnn", "MODEL.ROI_KEYPOINT_HEAD.NAME", "CornerKeypoints", "pred_keypoints"),
    ],
)
def test_an_overridden_forward_is_called_and_recorded(name: str, key: str, head: str, field: str) -> None:
    model = model_with(name, key, head)
    net = exportable(model)
    assert isinstance(net, InstancesModel)
    names = net.contract(()).output_names
    with torch.no_grad():
        (found,) = model.inference([{"image": IMAGE}], do_postprocess=False)
        traced = torch.jit.trace(net.image_graph(names), draw(96, 64, 3), check_trace=False)(IMAGE)
    assert len(found) > 0
    graph = dict(zip(names, traced, strict=True))
    if field == "pred_masks":
        assert torch.equal(graph[field], torch.ones_like(graph[field]))
    else:
        corners = found.pred_boxes.tensor[:, None, :2].expand(-1, 3, -1)
        assert torch.equal(graph[field][..., :2], corners)
    losses = model.train()([{"image": IMAGE, "instances": ground_truth()}])
    assert ("own_loss_mask" if field == "pred_masks" else "loss_keypoint") in losses


def test_overridden_layers_go_into_graphs() -> None:
    plain = model_with("mask_rcnn", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
    inverted = model_with("mask_rcnn", "MODEL.ROI_MASK_HEAD.NAME", "Inverted")
    assert exportable(inverted) is inverted
    with torch.no_grad():
        (expected,), (found,) = (model.image_graph(("pred_masks",))(IMAGE) for model in (plain, inverted))
    torch.testing.assert_close(found, 1 - expected)
