import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detexport.layers import ShapeSpec
from detexport.modeling.roi_heads.keypoint_head import (
    BaseKeypointRCNNHead,
    KRCNNConvDeconvUpsampleHead,
    bicubic_weights,
    heatmaps_to_keypoints,
    keypoint_rcnn_inference,
    keypoint_rcnn_loss,
)
from detexport.structures import Boxes, Instances, Keypoints
from detexport.structures import heatmaps_to_keypoints as structure_keypoints

BOXES = torch.tensor(
    [
        [3.2, 4.1, 17.9, 21.5],
        [0.0, 0.0, 90.0, 70.0],  # the whole image
        [7.3, 7.4, 7.9, 7.8],  # within one pixel
        [20.0, 20.0, 83.0, 70.0],
        [5.0, 6.0, 5.0, 6.0],  # empty
    ]
)


def one_by_one(maps: Tensor, boxes: Tensor) -> Tensor:
    """The definition: each heatmap resized to its box by ``interpolate``, its highest pixel taken."""
    result = torch.zeros(*maps.shape[:2], 3)
    for index, (heatmaps, (x0, y0, x1, y1)) in enumerate(zip(maps, boxes, strict=True)):
        width, height = (x1 - x0).clamp(min=1), (y1 - y0).clamp(min=1)
        size = (int(height.ceil()), int(width.ceil()))
        resized = F.interpolate(heatmaps[None], size=size, mode="bicubic", align_corners=False)[0]
        for keypoint, heatmap in enumerate(resized):
            row, column = divmod(int(heatmap.argmax()), size[1])
            result[index, keypoint, 0] = x0 + (column + 0.5) * width / size[1]
            result[index, keypoint, 1] = y0 + (row + 0.5) * height / size[0]
            result[index, keypoint, 2] = 1 / (heatmaps[keypoint] - heatmap.max()).exp().sum()
    return result


@pytest.mark.parametrize("cells", [8, 56])
def test_keypoints_against_the_definition(cells: int) -> None:
    maps = 3 * torch.randn(5, 4, cells, cells, generator=torch.Generator().manual_seed(0))
    found = heatmaps_to_keypoints(maps, BOXES, (70, 90))
    torch.testing.assert_close(found, one_by_one(maps, BOXES), rtol=1e-5, atol=1e-4)


def test_a_flat_heatmap_has_its_keypoint_in_the_box() -> None:
    """Pixels beyond a smaller box are never chosen, though all are equally high."""
    found = heatmaps_to_keypoints(torch.zeros(5, 1, 8, 8), BOXES, (70, 90))[:, 0]
    assert (found[:, :2] >= BOXES[:, :2]).all()
    assert (found[:, :2] <= torch.maximum(BOXES[:, 2:], BOXES[:, :2] + 1)).all()
    torch.testing.assert_close(found[:, 2], torch.full((5,), 1 / 64))


def test_no_detection_has_no_keypoint() -> None:
    assert heatmaps_to_keypoints(torch.zeros(0, 4, 8, 8), torch.zeros(0, 4), (70, 90)).shape == (0, 4, 3)


def test_weights_of_a_pixel_sum_to_one() -> None:
    weights = bicubic_weights(torch.tensor([3.0, 20.0]), torch.arange(20.0), 8)
    assert weights.shape == (2, 20, 8)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 20))
    assert torch.equal(weights[0, 2:], weights[0, 2:3].expand(18, 8))


def head(normalizer: float = 0.0) -> KRCNNConvDeconvUpsampleHead:
    return KRCNNConvDeconvUpsampleHead(
        ShapeSpec(4, height=2, width=2),
        num_keypoints=2,
        conv_dims=[4],
        loss_weight=3.0,
        loss_normalizer=normalizer,
    )


def instances(visibility: list[list[float]]) -> Instances:
    points = torch.tensor([[[1.0, 1.0], [6.0, 9.9]], [[5.0, 5.0], [20.0, 5.0]]])
    keypoints = torch.cat((points, torch.tensor(visibility)[..., None]), dim=2)
    boxes = Boxes([[0, 0, 8, 8], [0, 0, 10, 10]])
    return Instances((32, 32), proposal_boxes=boxes, gt_keypoints=Keypoints(keypoints))


def test_only_labelled_keypoints_inside_their_box_are_learnt_from() -> None:
    logits = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = instances([[2, 2], [1, 2]])  # the second of each lies outside
    expected = torch.stack(
        [-logits[0, 0].flatten().log_softmax(0)[9], -logits[1, 0].flatten().log_softmax(0)[36]]
    )
    loss = head().losses(logits, [found])["loss_keypoint"]
    torch.testing.assert_close(loss, 3 * expected.mean())
    fixed = head(normalizer=5.0).losses(logits, [found, found[:0]])["loss_keypoint"]
    torch.testing.assert_close(fixed, 3 * expected.sum() / 10)
    unlabelled = instances([[0, 0], [0, 0]])
    assert head().losses(logits, [unlabelled])["loss_keypoint"] == 0
    assert head().losses(logits[:0], [unlabelled[:0]])["loss_keypoint"] == 0


def test_shape_and_names_are_those_of_the_checkpoints() -> None:
    assert head()(torch.zeros(3, 4, 2, 2)).shape == (3, 2, 8, 8)
    assert sorted(head().state_dict()) == [
        "conv_fcn1.bias",
        "conv_fcn1.weight",
        "score_lowres.bias",
        "score_lowres.weight",
    ]


def test_a_head_of_layers_alone() -> None:
    class Head(BaseKeypointRCNNHead):
        def layers(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x[:, :3], scale_factor=2.0)

    head = Head(num_keypoints=3, loss_normalizer="visible")
    logits = head(torch.randn(1, 4, 4, 4))
    assert logits.shape == (1, 3, 8, 8)
    keypoints = Keypoints([[[2, 2, 2], [6, 6, 2], [50, 50, 2]]])
    instances = Instances((20, 20), proposal_boxes=Boxes([[0, 0, 8, 8]]), gt_keypoints=keypoints)
    maps = logits[0].flatten(1)
    expected = F.cross_entropy(maps[:2], torch.tensor([2 * 8 + 2, 6 * 8 + 6]))
    torch.testing.assert_close(head.losses(logits, [instances])["loss_keypoint"], expected)
    torch.testing.assert_close(keypoint_rcnn_loss(logits, [instances], 4.0), expected * 2 / 4)


def test_keypoints_are_added_to_detections() -> None:
    maps = torch.randn(3, 2, 8, 8)
    boxes = torch.tensor([[0.0, 0, 16, 8], [4, 4, 12, 18], [2, 2, 3, 3]])
    images = [
        Instances((20, 20), pred_boxes=Boxes(boxes[:2])),
        Instances((20, 20), pred_boxes=Boxes(boxes[2:])),
    ]
    keypoint_rcnn_inference(maps, images)
    assert [one.pred_keypoints.shape for one in images] == [(2, 2, 3), (1, 2, 3)]
    eager = structure_keypoints(maps, boxes)
    found = torch.cat([one.pred_keypoints for one in images])
    torch.testing.assert_close(found, eager[..., [0, 1, 3]], rtol=1e-4, atol=1e-4)
