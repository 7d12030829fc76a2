"""Overlap of rotated boxes, compared with shapely's polygons and with cases by hand."""

import math

import pytest
import torch
from torch import Tensor

from detexport.layers import pairwise_iou_rotated
from detexport.layers.rotated_boxes import corners_of_rotated, intersection_areas


def drawn(count: int, seed: int, extent: float = 60.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 5, generator=generator, dtype=torch.float64)
    boxes[:, :2] *= extent
    boxes[:, 2:4] = boxes[:, 2:4] ** 2 * extent + 0.5
    boxes[:, 4] = boxes[:, 4] * 720 - 360
    return boxes


def test_against_shapely() -> None:
    polygon = pytest.importorskip("shapely.geometry").Polygon
    first, second = drawn(40, 0), drawn(50, 1)
    shapes = [[polygon(corners.tolist()) for corners in corners_of_rotated(part)] for part in (first, second)]
    expected = [[a.intersection(b).area / a.union(b).area for b in shapes[1]] for a in shapes[0]]
    torch.testing.assert_close(
        pairwise_iou_rotated(first, second), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_corners_turn_counter_clockwise_in_the_image() -> None:
    """At 90 degrees the right edge of a box points up, to smaller y."""
    corners = corners_of_rotated(torch.tensor([[10.0, 20.0, 4.0, 2.0, 90.0]]))[0]
    expected = torch.tensor([[9.0, 22.0], [9.0, 18.0], [11.0, 18.0], [11.0, 22.0]])
    torch.testing.assert_close(corners, expected)


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 90.0, -123.4, 720.0])
def test_a_box_overlaps_itself_and_its_half_turn_fully(angle: float) -> None:
    box = torch.tensor([[1000.0, 2000.0, 30.0, 7.0, angle]])
    turned = box + torch.tensor([0, 0, 0, 0, 180.0])
    swapped = torch.tensor([[1000.0, 2000.0, 7.0, 30.0, angle + 90]])
    for other in (box, turned, swapped):
        assert pairwise_iou_rotated(box, other).item() == pytest.approx(1, abs=1e-5)


def test_a_square_and_its_eighth_turn() -> None:
    square = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
    octagon = 8 * (math.sqrt(2) - 1)
    iou = pairwise_iou_rotated(square, square + torch.tensor([0, 0, 0, 0, 45.0]))
    assert iou.item() == pytest.approx(octagon / (8 - octagon), abs=1e-6)


def test_without_rotation_it_is_the_overlap_of_plain_boxes() -> None:
    boxes = drawn(30, 2)
    boxes[:, 4] = 0
    low, high = boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2
    common = (torch.min(high[:, None], high) - torch.max(low[:, None], low)).clamp(min=0).prod(dim=2)
    areas = boxes[:, 2] * boxes[:, 3]
    expected = common / (areas[:, None] + areas - common)
    torch.testing.assert_close(pairwise_iou_rotated(boxes, boxes), expected, rtol=0, atol=1e-9)


def test_boxes_that_touch_are_apart_and_empty_boxes_overlap_nothing() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0]])
    others = torch.tensor(
        [[2.0, 0.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 1.0, 1.0, 33.0], [9, 9, 1, 1, 0]]
    )
    torch.testing.assert_close(pairwise_iou_rotated(box, others), torch.tensor([[0, 0, 0.25, 0]]))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(shape: tuple[int, int]) -> None:
    assert pairwise_iou_rotated(drawn(shape[0], 0), drawn(shape[1], 1)).shape == shape


def test_a_small_box_far_from_the_origin_keeps_its_area() -> None:
    box = torch.tensor([[1e6, 1e6, 3.0, 2.0, 17.0]], dtype=torch.float64)
    assert intersection_areas(box, box).item() == pytest.approx(6, rel=1e-9)
