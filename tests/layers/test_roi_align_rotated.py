"""ROIAlign over boxes and rotated boxes."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from detexport.layers import ROIAlign, ROIAlignRotated, roi_align_rotated

FEATURES = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor(
    [
        [0, 3.0, 5.0, 40.0, 33.0],
        [1, -8.0, -3.0, 20.0, 70.0],
        [1, 10.0, 12.0, 10.5, 12.25],
        [0, 60, 60, 96, 96],
    ]
)


def as_rotated(rois: Tensor, angle: float) -> Tensor:
    centre, size = (rois[:, 1:3] + rois[:, 3:]) / 2, rois[:, 3:] - rois[:, 1:3]
    return torch.cat((rois[:, :1], centre, size, torch.full_like(rois[:, :1], angle)), dim=1)


@pytest.mark.parametrize("aligned", [True, False])
def test_the_module_is_the_operator_of_torchvision(aligned: bool) -> None:
    pooled = ROIAlign((3, 5), 0.25, 2, aligned=aligned)(FEATURES, ROIS)
    expected = torchvision_roi_align(FEATURES, ROIS, (3, 5), 0.25, 2, aligned)
    assert torch.equal(pooled, expected)
    assert pooled.shape == (4, 3, 3, 5)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
def test_an_angle_of_0_is_an_aligned_roi_align(sampling_ratio: int) -> None:
    pooled = ROIAlignRotated((3, 5), 0.25, sampling_ratio)(FEATURES, as_rotated(ROIS, 0.0))
    expected = ROIAlign((3, 5), 0.25, sampling_ratio)(FEATURES, ROIS)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)


def test_a_quarter_turn_of_the_box_is_the_opposite_turn_of_the_image() -> None:
    """The features of a box that is rotated by 90 degrees are those of the box in the image rotated back."""
    size = float(FEATURES.shape[-1])
    rois = as_rotated(ROIS[:3] / 4, 90.0)
    pooled = roi_align_rotated(FEATURES, rois, (4, 2), 1.0, 2)
    back = FEATURES.rot90(-1, dims=(2, 3))
    moved = rois.clone()
    moved[:, 1], moved[:, 2], moved[:, 5] = size - rois[:, 2], rois[:, 1], 0
    torch.testing.assert_close(pooled, roi_align_rotated(back, moved, (4, 2), 1.0, 2), rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_features_and_no_box_gives_no_row() -> None:
    features = FEATURES.clone().requires_grad_()
    roi_align_rotated(features, as_rotated(ROIS, 30.0), 2, 0.25, 2).sum().backward()
    assert features.grad is not None
    assert (features.grad != 0).any()
    assert roi_align_rotated(FEATURES, torch.zeros(0, 6), 2, 0.25, 2).shape == (0, 3, 2, 2)


class Pooled(torch.nn.Module):
    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_align_rotated(features, rois, (3, 2), 0.25, 0)


@pytest.mark.parametrize("kind", ["trace", "program"])
def test_graphs_pool_other_boxes_of_other_maps(kind: str) -> None:
    rois = as_rotated(ROIS, 33.0)
    example = (FEATURES[:, :, :20].contiguous(), rois[:2])
    graph: torch.nn.Module = Pooled()
    if kind == "trace":
        graph = torch.jit.trace(graph, example, check_trace=False)
    else:
        free = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO})
        graph = torch.export.export(graph, example, dynamic_shapes=free).module()
    torch.testing.assert_close(graph(FEATURES, rois), Pooled()(FEATURES, rois), rtol=1e-4, atol=1e-5)
