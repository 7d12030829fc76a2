"""PointRend: points and what is sampled there, the subdivision, the heads, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config.cfg import load_cfg
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling import build_model
from detexport.modeling.point_rend.mask_head import PointMaskHead, masks_at_points
from detexport.modeling.point_rend.point_head import ImplicitPointHead, StandardPointHead
from detexport.modeling.point_rend.sampling import (
    PointPooler,
    PointSampling,
    cell_centres,
    regular_grid,
    sample,
)
from detexport.modeling.roi_heads import StandardROIHeads
from detexport.structures import BitMasks, Boxes, Instances
from detexport.utils.events import EventStorage

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
LEVELS = {"p2": ShapeSpec(2, stride=4), "p3": ShapeSpec(3, stride=8)}
MASK_HEAD: dict[str, Any] = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
    "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    "MODEL.ROI_MASK_HEAD.FC_DIM": 8,
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
    "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
    "MODEL.POINT_HEAD.NUM_CLASSES": 5,
    "MODEL.POINT_HEAD.FC_DIM": 8,
}
IMPLICIT: dict[str, Any] = {
    **MASK_HEAD,
    "MODEL.ROI_MASK_HEAD.NAME": "ImplicitPointRendMaskHead",
    "MODEL.POINT_HEAD.NAME": "ImplicitPointHead",
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 3,
}
SEM_SEG: dict[str, Any] = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.SEM_SEG_HEAD.NAME": "PointRendSemSegHead",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.POINT_HEAD.IN_FEATURES": ["p2", "p3"],
    "MODEL.POINT_HEAD.NUM_CLASSES": 5,
    "MODEL.POINT_HEAD.FC_DIM": 8,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
}


def build(options: dict[str, Any], **further: Any) -> Any:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list([part for item in {**options, **further}.items() for part in item])
    torch.manual_seed(0)
    return build_model(cfg).eval()


def ramp(stride: int, height: int = 6, width: int = 8) -> Tensor:
    """(1, 2, H, W): x and y in px of the image at each cell's centre."""
    x = (torch.arange(width) + 0.5) * stride
    y = (torch.arange(height) + 0.5) * stride
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)))[None]


def test_a_map_is_sampled_between_its_cells_and_fades_at_its_edge() -> None:
    maps = torch.tensor([[[[2.0, 4.0], [6.0, 8.0]]]])
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.5, 0.5], [0.0, 0.25], [0.0, 0.0], [1.5, 0.5]]])
    assert sample(maps, points)[0, 0].tolist() == [2.0, 4.0, 5.0, 1.0, 0.5, 0.0]


def test_cells_row_after_row() -> None:
    centres = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]])
    torch.testing.assert_close(regular_grid(2), centres)
    torch.testing.assert_close(cell_centres(torch.arange(49)[None], 7, 7), regular_grid(7))
    wide = cell_centres(torch.tensor([[0, 3, 4, 7]]), 2, 4)
    assert wide.tolist() == [[[0.125, 0.25], [0.875, 0.25], [0.125, 0.75], [0.875, 0.75]]]


def test_points_within_boxes_are_sampled_in_their_image() -> None:
    """Maps of coordinates give the points' own, whatever the stride."""
    pooler = PointPooler({"p2": ShapeSpec(2, stride=4), "p3": ShapeSpec(2, stride=8)}, ["p3", "p2"], "KEY")
    maps = [torch.cat((ramp(4, 12, 16), 100 + ramp(4, 12, 16))), torch.cat((ramp(8), 100 + ramp(8)))]
    boxes = [torch.tensor([[8.0, 8.0, 24.0, 40.0]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]] * 2)]
    points = torch.tensor([[0.5, 0.25], [0.75, 1.0]]).expand(3, -1, -1)
    found = pooler(maps, boxes, points)
    first = torch.tensor([[16.0, 20.0], [16.0, 40.0]])
    second = torch.tensor([[120.0, 125.0], [125.0, 140.0]])
    expected = torch.stack([torch.cat((place, place)) for place in (first, second, second)])
    torch.testing.assert_close(found, expected)
    assert pooler([level[:1] for level in maps], [boxes[0][:0]], points[:0]).shape == (0, 4, 2)


def test_points_are_drawn_where_the_prediction_is_uncertain() -> None:
    torch.manual_seed(0)
    logits = ramp(1, 16, 16)[:, :1] - 8.0  # certain but at x = 0.5
    sampling = PointSampling(num_points=100, oversample_ratio=3, importance_ratio=0.75)
    points = sampling.draw(logits.expand(2, -1, -1, -1), lambda values: -values[:, 0].abs())
    assert points.shape == (2, 100, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = (points[..., 0] - 0.5).abs()
    assert distance[:, :75].max() < 0.2
    assert distance[:, 75:].max() > 0.35


class Disc(PointMaskHead):
    """Logits of a disc of the box, known at every point; of the second class its complement."""

    def forward(self, features: list[Tensor], boxes: list[Tensor], classes: Tensor) -> Tensor:
        return self.subdivide(features, boxes, classes, torch.empty(0))

    def point_logits(self, features: Any, boxes: Any, points: Tensor, context: Any) -> Tensor:
        logits = 0.3 - (points - points.new_tensor([0.4, 0.5])).norm(dim=2)
        return torch.stack((logits, -logits), dim=1)


def disc_head(**options: Any) -> Disc:
    pooler = PointPooler(LEVELS, ["p2"], "KEY")
    defaults = {"first_side": 7, "steps": 5, "num_points": 784, "sampling": PointSampling(4, 3, 0.5)}
    return Disc(box_pooler=pooler, box_side=14, point_pooler=pooler, **{**defaults, **options})


@pytest.mark.parametrize(
    ("first_side", "steps", "num_points", "start", "doublings"),
    [(7, 5, 784, 28, 3), (7, 5, 783, 14, 4), (14, 3, 784, 28, 2), (7, 1, 784, 14, 0), (7, 0, 784, 7, 0)],
)
def test_the_subdivision_starts_where_not_all_cells_are_predicted_again(
    first_side: int, steps: int, num_points: int, start: int, doublings: int
) -> None:
    head = disc_head(first_side=first_side, steps=steps, num_points=num_points)
    assert (head.first_side, head.steps) == (start, doublings)
    assert head.resolution == first_side * 2**steps
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0]])]
    assert head([], boxes, torch.tensor([0])).shape == (1, head.resolution, head.resolution)


@pytest.mark.parametrize(("num_points", "start"), [(784, 28), (196, 14), (400, 20)])
def test_an_implicit_head_starts_with_as_many_cells_as_it_predicts_again(num_points: int, start: int) -> None:
    """It has no coarse mask: each step is one of the subdivision, whatever OUTPUT_SIDE_RESOLUTION is."""
    head = build(IMPLICIT, **{"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": num_points}).roi_heads.mask_head
    assert (head.first_side, head.steps, head.resolution) == (start, 3, 8 * start)


def test_a_subdivided_mask_is_exact_at_its_edge() -> None:
    head = disc_head()
    boxes = [torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 2)]
    found = head([], boxes, torch.tensor([0, 1]))
    truth = head.point_logits([], boxes, regular_grid(224), None)[0].reshape(2, 224, 224)
    assert torch.equal(found > 0, truth > 0)
    edge = truth.abs().flatten(1).argsort(dim=1)[:, :400]
    torch.testing.assert_close(found.flatten(1).gather(1, edge), truth.flatten(1).gather(1, edge))
    coarse = F.interpolate(truth[None, :, ::8, ::8], size=224, mode="bilinear")[0]
    assert not torch.equal(coarse > 0, truth > 0)


@pytest.mark.parametrize("each_layer", [True, False])
def test_every_layer_or_the_first_sees_the_coarse_prediction(each_layer: bool) -> None:
    head = StandardPointHead(
        ShapeSpec(4), num_classes=3, num_outputs=3, fc_dims=[8, 8], coarse_each_layer=each_layer
    )
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    further = 8 + (3 if each_layer else 0)
    assert shapes == {
        **{"fc1.weight": (8, 7, 1), "fc1.bias": (8,), "fc2.weight": (8, further, 1), "fc2.bias": (8,)},
        **{"predictor.weight": (3, further, 1), "predictor.bias": (3,)},
    }
    fine, coarse = torch.randn(2, 4, 5), torch.randn(2, 3, 5)
    x = torch.cat((fine, coarse), dim=1)
    for layer in (head.fc1, head.fc2):
        x = layer(x).relu()
        x = torch.cat((x, coarse), dim=1) if each_layer else x
    assert torch.equal(head(fine, coarse), head.predictor(x))
    assert head(fine[:0], coarse[:0]).shape == (0, 3, 5)


def test_an_implicit_head_runs_a_network_of_its_own_for_each_box() -> None:
    head = ImplicitPointHead(
        ShapeSpec(4), num_outputs=2, fc_dims=[8, 6], use_features=True, use_position=True
    )
    sizes = [(8, 260), (6, 8), (2, 6)]
    assert head.num_params == sum(out * (into + 1) for out, into in sizes)
    assert list(head.state_dict()) == ["positional_encoding_gaussian_matrix"]
    fine, points = torch.randn(3, 4, 5), torch.rand(3, 5, 2)
    parameters = torch.stack([head.initial_parameters() + 0.01 * torch.randn(head.num_params)] * 3)
    parameters[1] *= 2
    found = head(fine, points, parameters)
    angles = 2 * torch.pi * (2 * points - 1) @ head.positional_encoding_gaussian_matrix
    inputs = torch.cat((angles.sin(), angles.cos(), fine.transpose(1, 2)), dim=2)
    for box in range(3):
        weights = parameters[box].split([out * into for out, into in sizes] + [8, 6, 2])
        x = inputs[box]
        for layer, shape in enumerate(sizes):
            x = F.linear(x if layer == 0 else x.relu(), weights[layer].view(shape), weights[3 + layer])
        torch.testing.assert_close(found[box], x.T, rtol=1e-4, atol=1e-4)
    assert head(fine[:0], points[:0], parameters[:0]).shape == (0, 2, 5)


@pytest.mark.parametrize(("features", "position", "channels"), [(True, False, 4), (False, True, 256)])
def test_what_an_implicit_head_sees(features: bool, position: bool, channels: int) -> None:
    head = ImplicitPointHead(
        ShapeSpec(4), num_outputs=1, fc_dims=[], use_features=features, use_position=position
    )
    assert head.num_params == channels + 1
    scripted = torch.jit.script(head)
    inputs = torch.randn(2, 4, 5), torch.rand(2, 5, 2), torch.randn(2, head.num_params)
    assert torch.equal(scripted(*inputs), head(*inputs))


def proposals(**fields: Any) -> Instances:
    masks = torch.zeros(2, 32, 40, dtype=torch.bool)
    masks[0, :, :20] = True
    masks[1, 8:16] = True
    boxes = Boxes([[10.0, 0.0, 30.0, 32.0], [0.0, 4.0, 40.0, 20.0]])
    return Instances(
        (32, 40),
        proposal_boxes=boxes,
        gt_classes=torch.tensor([0, 3]),
        gt_masks=fields.get("gt_masks", BitMasks(masks)),
    )


def test_true_masks_at_points() -> None:
    points = torch.tensor([[0.2, 0.5], [0.8, 0.5], [0.5, 0.5], [0.5, 0.1]]).expand(2, -1, -1)
    found = masks_at_points([proposals()[:0], proposals()], points)
    assert found.tolist() == [[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 1.0, 0.0]]
    with pytest.raises(ConfigError, match=r"gt_masks as list.*INPUT\.MASK_FORMAT"):
        masks_at_points([proposals(gt_masks=[1, 2])], points)


def test_losses_are_those_of_the_true_class() -> None:
    head = build(MASK_HEAD).roi_heads.mask_head
    features = [torch.randn(1, 32, 8, 10)] * 4
    with torch.no_grad():
        head.point_head.predictor.weight.zero_()
        head.coarse_head.prediction.weight.zero_()
        coarse = head.coarse_head.prediction.bias.view(5, 49)
        coarse.fill_(-9.0)
        head.point_head.predictor.bias.fill_(-9.0)
        with EventStorage() as storage:
            losses = head.losses(features, [proposals()])
        assert 0 < storage.latest()["point/accuracy"][0] < 1
        assert losses["loss_mask"] > 3
        assert losses["loss_mask_point"] > 3
        # The other classes change nothing.
        coarse[[1, 2, 4]] = 9.0
        head.point_head.predictor.bias[[1, 2, 4]] = 9.0
        torch.manual_seed(0)
        first = head.losses(features, [proposals()])
        head.point_head.predictor.bias[[1, 2, 4]] = -9.0
        torch.manual_seed(0)
        assert head.losses(features, [proposals()]) == first
        assert losses["loss_mask"] == first["loss_mask"]
        nothing = head.losses(features, [proposals()[:0]])
    assert set(nothing) == {"loss_mask", "loss_mask_point"}
    assert all(value == 0 for value in nothing.values())


def test_names_are_those_of_the_checkpoints() -> None:
    assert [name for name in build(MASK_HEAD).roi_heads.state_dict() if name.startswith("mask")] == [
        f"mask_head.{part}.{kind}"
        for part in (
            *(f"point_head.{layer}" for layer in ("fc1", "fc2", "fc3", "predictor")),
            "coarse_head.reduce_channel_dim_conv",
            "coarse_head.reduce_spatial_dim_conv",
            *(f"coarse_head.{layer}" for layer in ("fc1", "fc2", "prediction")),
        )
        for kind in ("weight", "bias")
    ]
    implicit = set(build(IMPLICIT).roi_heads.mask_head.state_dict())
    assert "point_head.positional_encoding_gaussian_matrix" in implicit
    assert "parameter_head.prediction.weight" in implicit


def test_without_a_point_head_the_coarse_masks_are_given() -> None:
    options = {"MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": False, "MODEL.POINT_HEAD.IN_FEATURES": []}
    model = build(MASK_HEAD, **options)
    model.roi_heads.box_predictor.score_threshold = 0.0
    assert model.roi_heads.mask_head.resolution == 7
    image = torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)
    seen: list[Tensor] = []
    model.roi_heads.mask_head.coarse_head.register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        found = model.detect([image])[0]
    own = seen[0][torch.arange(len(found["scores"])), found["pred_classes"]].sigmoid()
    assert len(own) > 1
    assert torch.equal(found["pred_masks"], own)


def test_classes_may_share_a_points_mask() -> None:
    model = build(MASK_HEAD, **{"MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK": True})
    head = model.roi_heads.mask_head
    features, boxes = [torch.randn(1, 32, 8, 10)] * 4, [torch.tensor([[0.0, 0.0, 20.0, 20.0]] * 2)]
    assert head.point_head.predictor.out_channels == 1
    with torch.no_grad():
        first, second = head.masks(features, boxes, torch.tensor([0, 4]))
    assert torch.equal(first, second)


@torch.no_grad()
@pytest.mark.parametrize("num_points", [30, 4096])
def test_uncertain_pixels_are_predicted_anew(num_points: int) -> None:
    """More points than cells predict every cell of the finest map."""
    head = build(SEM_SEG, **{"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": num_points}).sem_seg_head
    nn.init.normal_(head.point_head.predictor.weight)
    features = {
        f"p{level}": torch.randn(2, 32, 2 ** (6 - level), 3 * 2 ** (5 - level)) for level in (2, 3, 4, 5)
    }
    coarse = head.coarse_sem_seg_head.layers(features)
    found = head(features)
    assert found.shape == (2, 5, 64, 96)
    cells = torch.arange(64 * 96).expand(2, -1)
    everywhere = head.point_logits(features, coarse, cell_centres(cells, 64, 96)).reshape(found.shape)
    same = (found == everywhere).all(dim=1).sum(dim=(1, 2))
    if num_points < 64 * 96:
        assert (same >= num_points).all()
        assert (same < 2 * num_points).all()
    else:
        assert (same == num_points).all()


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (MASK_HEAD, {"MODEL.POINT_HEAD.NUM_CLASSES": 80}, "POINT_HEAD.NUM_CLASSES: 80; expected: 5"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.NAME": "Mine"}, "unknown point head.*MODEL.POINT_HEAD.NAME: 'Mine'"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.NAME": "ImplicitPointHead"}, "MODEL.POINT_HEAD.NAME"),
        (IMPLICIT, {"MODEL.POINT_HEAD.NAME": "StandardPointHead"}, "MODEL.POINT_HEAD.NAME"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.IN_FEATURES": []}, "MODEL.POINT_HEAD.IN_FEATURES names no"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.IN_FEATURES": ["p6"]}, "MODEL.POINT_HEAD.IN_FEATURES .*p6"),
        (MASK_HEAD, {"MODEL.ROI_MASK_HEAD.IN_FEATURES": []}, "MODEL.ROI_MASK_HEAD.IN_FEATURES names no"),
        (MASK_HEAD, {"MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignV2"}, "POOLER_TYPE: 'ROIAlignV2'"),
        (MASK_HEAD, {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True}, "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"),
        (MASK_HEAD, {"MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 1}, "POOLER_RESOLUTION: 1"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.OVERSAMPLE_RATIO": 0}, "OVERSAMPLE_RATIO: 0"),
        (MASK_HEAD, {"MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO": 1.5}, "IMPORTANCE_SAMPLE_RATIO: 1.5"),
        (
            IMPLICIT,
            {
                "MODEL.IMPLICIT_POINTREND.IMAGE_FEATURE_ENABLED": False,
                "MODEL.IMPLICIT_POINTREND.POS_ENC_ENABLED": False,
            },
            "MODEL.IMPLICIT_POINTREND",
        ),
        (IMPLICIT, {"MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 800}, "NUM_POINTS: 800; .* such as 784"),
        (SEM_SEG, {"MODEL.POINT_HEAD.NUM_CLASSES": 6}, "POINT_HEAD.NUM_CLASSES: 6; expected: 5"),
        (SEM_SEG, {"MODEL.POINT_HEAD.SUBDIVISION_STEPS": 3}, "SUBDIVISION_STEPS: 3"),
        (SEM_SEG, {"MODEL.POINT_HEAD.NAME": "ImplicitPointHead"}, "NAME: ImplicitPointHead"),
        (SEM_SEG, {"MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK": True}, "CLS_AGNOSTIC_MASK: True"),
        (SEM_SEG, {"MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME": "X"}, "COARSE_SEM_SEG_HEAD_NAME: 'X'"),
        (
            SEM_SEG,
            {"MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME": "PointRendSemSegHead"},
            "COARSE_SEM_SEG_HEAD_NAME: PointRendSemSegHead",
        ),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, dict) and len(value) < 3 else "",
)
def test_what_cannot_be_built_is_named(options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(options, **change)


def test_the_older_name_of_its_roi_heads() -> None:
    cfg = load_cfg(CONFIG)
    overrides = {**MASK_HEAD, "MODEL.ROI_HEADS.NAME": "PointRendROIHeads"}
    cfg.merge_from_list([part for item in overrides.items() for part in item])
    assert type(build_model(cfg).roi_heads) is StandardROIHeads
