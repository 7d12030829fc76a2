"""FCOS: which points predict a box, the centerness, scores, and the head's normalizations."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling import FCOS, Backbone
from detexport.modeling.box_regression import Box2BoxTransformLinear
from detexport.modeling.meta_arch.fcos import FCOSHead, centerness_of, match_points
from detexport.structures import Boxes, Instances

STRIDES = {"p3": 8, "p4": 16}


class Pyramid(Backbone):
    def __init__(self) -> None:
        super().__init__()
        self.size_divisibility = 16
        self.convs = torch.nn.ModuleDict(
            {name: torch.nn.Conv2d(3, 32, 1, stride) for name, stride in STRIDES.items()}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: conv(x / 100) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(32, stride=stride) for name, stride in STRIDES.items()}


def fcos(norm: str = "GN", **options: Any) -> FCOS:
    torch.manual_seed(0)
    backbone = Pyramid()
    shapes = list(backbone.output_shape().values())
    head = FCOSHead(input_shape=shapes, num_classes=3, conv_dims=[32, 64], norm=norm)
    defaults: dict[str, Any] = {"test_score_thresh": 0.05, "pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3}
    return FCOS(backbone=backbone, head=head, num_classes=3, **(defaults | options))


def example(**fields: Any) -> dict[str, Any]:
    return {"image": torch.randint(0, 255, (3, 60, 90), generator=torch.Generator().manual_seed(1)), **fields}


def cells(stride: int, height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    low = torch.stack((x, y), dim=2).reshape(-1, 2) * float(stride)
    return torch.cat((low, low + stride), dim=1)


def test_points_near_the_centre_of_a_box_of_their_size_predict_it() -> None:
    """The farthest edge is less than 64 px away at p3, the first level, and more than 64 px at p4."""
    levels = [cells(8, 16, 16), cells(16, 8, 8)]
    small, large = [40.0, 40.0, 72.0, 72.0], [6.0, 6.0, 122.0, 122.0]
    matches = match_points(levels, Boxes([small, large]), radius=1.5)
    fine, coarse = matches[:256].reshape(16, 16), matches[256:].reshape(8, 8)
    # Points at 60 and 68 px are less than 12 px from the centre of the large box at 64, those at 52 and 60 px
    # from that of the small one at 56.
    expected = torch.full((16, 16), -1)
    expected[7:9, 7:9], expected[6:8, 6:8] = 1, 0
    assert torch.equal(fine, expected)
    # Points at 56 and 72 px: less than 24 px from the centre at 64 are 56 and 72 only.
    assert (coarse == 1).nonzero().tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_a_box_at_the_bound_of_a_level_is_that_of_the_finer_one_or_of_none() -> None:
    """The centre of the cell at (72, 72) is 64 px from the right edge: neither below 64 nor above it."""
    levels = [cells(8, 16, 16), cells(16, 8, 8)]
    matches = match_points(levels, Boxes([[20.0, 20.0, 136.0, 124.0]]), radius=0)[256:].reshape(8, 8)
    assert matches[4, 4] == -1
    assert matches[4, 3] == 0


def test_of_two_boxes_a_point_predicts_the_smaller_and_without_boxes_none() -> None:
    levels = [cells(8, 8, 8)]
    boxes = Boxes([[0.0, 0.0, 64.0, 64.0], [16.0, 16.0, 48.0, 48.0]])
    assert match_points(levels, boxes, radius=0).reshape(8, 8)[3, 3] == 1
    assert match_points(levels, boxes, radius=0).reshape(8, 8)[0, 0] == 0
    assert (match_points(levels, Boxes(torch.zeros(0, 4)), radius=1.5) == -1).all()


def test_centerness_by_hand() -> None:
    distances = torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 4.0, 2.0], [1.0, 1.0, 9.0, 4.0]])
    assert centerness_of(distances).tolist() == pytest.approx([1, 0.5, math.sqrt(1 / 9 * 1 / 4)])


def test_a_score_is_the_geometric_mean_and_boxes_are_distances_times_the_stride() -> None:
    model = fcos()
    logits, deltas = torch.full((1, 4, 3), -9.0), torch.zeros(1, 4, 4)
    logits[0, 1, 2] = 1.0
    deltas[0, 1] = torch.tensor([0.5, -1.0, 1.0, 0.25])
    center = torch.full((1, 4, 1), 0.5)
    found = model.find_detections([cells(8, 2, 2)], [logits], [deltas], [center])[0]
    score = math.sqrt(1 / (1 + math.exp(-1)) / (1 + math.exp(-0.5)))
    assert found["scores"].tolist() == pytest.approx([score])
    assert found["pred_classes"].tolist() == [2]
    # The point is at (12, 4); negative distances are 0.
    assert found["pred_boxes"].tolist() == [[8.0, 4.0, 20.0, 6.0]]


@pytest.mark.parametrize("norm", ["", "GN", "LN", "BN", "SyncBN"])
def test_batch_normalization_alone_has_statistics_for_each_level(norm: str) -> None:
    keys = fcos(norm).state_dict().keys()
    assert ("head.cls_subnet.1.1.running_mean" in keys) == (norm in ("BN", "SyncBN"))
    assert ("head.cls_subnet.1.weight" in keys) == bool(norm)
    assert "head.bbox_subnet.3.weight" in keys if norm else "head.bbox_subnet.2.weight" in keys


@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_it_trains_and_its_graph_finds_the_same(norm: str) -> None:
    model = fcos(norm).train()
    truth = Instances((60, 90), gt_boxes=Boxes([[8.0, 8.0, 56.0, 50.0]]), gt_classes=torch.tensor([1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(12):
        losses = model([example(instances=truth)])
        assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        # Relative to the moving average, which follows the number of points.
        totals.append(float(total) * model.loss_normalizer)
    assert totals[-1] < totals[0]
    model.eval()
    image = example()["image"]
    with torch.no_grad():
        eager = model.inference([{"image": image}], do_postprocess=False)[0]
        scripted = torch.jit.script(model.batch_graph())([image])[0]
    torch.testing.assert_close(scripted["scores"], eager.scores)
    torch.testing.assert_close(scripted["pred_boxes"], eager.pred_boxes.tensor)


class Doubling(Box2BoxTransformLinear):
    """Boxes of twice the coordinates."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        return 2 * super().apply_deltas(deltas, boxes)


def test_it_decodes_by_its_own_transform_in_a_trace_too() -> None:
    plain, own = fcos().eval(), fcos(box2box_transform=Doubling()).eval()
    plain.test_score_thresh = own.test_score_thresh = 0.0
    image, other = example()["image"], torch.randint(0, 255, (3, 90, 50), dtype=torch.uint8)
    with torch.no_grad():
        expected, found = (
            model.inference([{"image": image}], do_postprocess=False)[0] for model in (plain, own)
        )
        traced = torch.jit.trace(own.image_graph(("pred_boxes",)), (other,), check_trace=False)(image)[0]
    assert len(found) > 0
    assert torch.equal(found.pred_boxes.tensor, 2 * expected.pred_boxes.tensor)
    assert torch.equal(traced, found.pred_boxes.tensor)
    with pytest.raises(ConfigError, match=r"apply_deltas of Doubling.*a Box2BoxTransformLinear"):
        own.batch_graph()


def test_documented_attributes_are_those_that_the_model_reads() -> None:
    model = fcos().eval()
    model.test_score_thresh, model.max_detections_per_image, model.test_topk_candidates = 0.0, 2, 5
    with torch.no_grad():
        (found,) = model.inference([example()], do_postprocess=False)
    assert len(found) == 2
    assert (model.topk_candidates, model.test_nms_thresh) == (5, model.nms_threshold)
    assert model.head_in_features == model.in_features == list(STRIDES)


def test_levels_of_different_widths_and_unknown_norms_are_refused() -> None:
    with pytest.raises(ConfigError, match="have one number of channels"):
        FCOSHead(input_shape=[ShapeSpec(32), ShapeSpec(64)], num_classes=1, conv_dims=[32])
    with pytest.raises(ConfigError, match="'FrozenBN' over 64"):
        FCOSHead(input_shape=[ShapeSpec(64)], num_classes=1, conv_dims=[64], norm="FrozenBN")
