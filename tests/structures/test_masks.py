import numpy as np
import pytest
import torch

from detexport.structures import (
    BitMasks,
    PolygonMasks,
    ROIMasks,
    polygons_to_bitmask,
    rasterize_polygons_within_box,
)


def test_shape_and_dtype() -> None:
    masks = BitMasks(torch.tensor([[[0, 2], [0, 0]], [[0, 0], [0, 0]]]))
    assert masks.tensor.dtype == torch.bool
    assert masks.image_size == (2, 2)
    assert masks.nonempty().tolist() == [True, False]
    assert masks[0].tensor.shape == (1, 2, 2)
    assert len(masks[torch.tensor([True, True])]) == 2
    assert len(BitMasks.cat([masks, masks])) == 4
    assert len(list(masks)) == 2
    assert len(BitMasks(np.zeros((0, 4, 5)))) == 0
    with pytest.raises(ValueError, match=r"\(R, H, W\)"):
        BitMasks(torch.zeros(2, 2))


def test_crop_and_resize_of_a_rectangle() -> None:
    """A mask of the left half of its box fills the left half of the grid."""
    mask = torch.zeros(2, 20, 30)
    mask[0, 2:18, 4:12] = 1
    mask[1, :, :] = 1
    boxes = torch.tensor([[4.0, 2.0, 20.0, 18.0], [3.5, 2.5, 9.5, 8.5]])
    grid = BitMasks(mask).crop_and_resize(boxes, 8)
    assert grid.dtype == torch.bool
    assert grid[0].tolist() == [[True] * 4 + [False] * 4] * 8
    assert grid[1].all()


def test_crop_and_resize_needs_one_box_per_mask() -> None:
    masks = BitMasks(torch.ones(2, 5, 5))
    with pytest.raises(ValueError, match="2 masks"):
        masks.crop_and_resize(torch.zeros(1, 4), 7)
    assert BitMasks(torch.zeros(0, 5, 5)).crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)


SQUARE = [2, 1, 8, 1, 8, 5, 2, 5]
TRIANGLE = [0.0, 0, 4, 0, 0, 4]


def test_polygons_are_rasterized_as_by_pycocotools() -> None:
    mask = polygons_to_bitmask([SQUARE, [0, 6, 3, 6, 3, 8, 0, 8]], 10, 12)
    expected = np.zeros((10, 12), bool)
    expected[1:5, 2:8] = expected[6:8, 0:3] = True
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)
    assert not polygons_to_bitmask([], 3, 4).any()


@pytest.mark.parametrize("polygon", [[], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [[1, 2], [3, 4], [5, 6]]])
def test_invalid_polygons_are_refused(polygon: list) -> None:
    with pytest.raises(ValueError, match="three vertices"):
        PolygonMasks([[polygon]])
    with pytest.raises(ValueError, match="three vertices"):
        polygons_to_bitmask([polygon], 5, 5)


def test_bounding_boxes_and_areas() -> None:
    polygons = PolygonMasks([[SQUARE], [TRIANGLE, SQUARE], []])
    assert polygons.area().tolist() == [24, 32, 0]
    assert polygons.nonempty().tolist() == [True, True, False]
    assert polygons.get_bounding_boxes().tensor.tolist() == [[2, 1, 8, 5], [0, 0, 8, 5], [0, 0, 0, 0]]
    bitmaps = BitMasks.from_polygon_masks(polygons, 10, 12)
    assert bitmaps.image_size == (10, 12)
    assert bitmaps[0].tensor.sum() == 24
    assert bitmaps.get_bounding_boxes().tensor[[0, 2]].tolist() == [[2, 1, 8, 5], [0, 0, 0, 0]]
    assert torch.equal(BitMasks.from_polygon_masks(polygons.polygons, 10, 12).tensor, bitmaps.tensor)
    assert len(BitMasks.from_polygon_masks([], 4, 5).get_bounding_boxes()) == 0


def test_polygons_are_indexed_and_concatenated() -> None:
    polygons = PolygonMasks([[SQUARE], [TRIANGLE], [TRIANGLE, SQUARE]])
    chosen = {
        "int": polygons[-1],
        "slice": polygons[2:],
        "bool": polygons[torch.tensor([False, False, True])],
        "index": polygons[torch.tensor([2])],
        "list": polygons[[2]],
        "numpy": polygons[np.array([False, False, True])],
    }
    for how, one in chosen.items():
        assert [len(instance) for instance in one] == [2], how
    assert len(polygons[torch.zeros(0, dtype=torch.int64)]) == 0
    assert PolygonMasks.cat([polygons, polygons[:1]]).area().tolist() == [24, 8, 32, 24]
    assert polygons.to("cpu").device == torch.device("cpu")
    assert str(polygons) == "PolygonMasks(3 instances)"


def test_polygons_and_their_bitmaps_agree_on_a_grid() -> None:
    """Both kinds of masks agree on the grid, except for cells along the outline."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    disk = np.stack((60 + 41.3 * np.cos(angle), 50 + 35.2 * np.sin(angle)), axis=1).ravel()
    polygons = PolygonMasks([[disk], [disk], [[10, 10, 70, 15, 30, 80]]])
    boxes = torch.tensor([[15.2, 11.7, 104.5, 88.0], [60, 20, 130, 70], [5, 5, 50, 50.0]])
    drawn = polygons.crop_and_resize(boxes, 28)
    expected = BitMasks.from_polygon_masks(polygons, 100, 140).crop_and_resize(boxes, 28)
    assert drawn.dtype == torch.bool
    assert drawn.shape == (3, 28, 28)
    assert drawn.flatten(1).sum(dim=1).min() > 100
    assert (drawn != expected).flatten(1).sum(dim=1).max() < 28
    assert polygons[:0].crop_and_resize(boxes[:0], 28).shape == (0, 28, 28)
    assert polygons[0].crop_and_resize(torch.full((1, 4), 50.0), 28).shape == (1, 28, 28)
    with pytest.raises(ValueError, match="3 masks"):
        polygons.crop_and_resize(boxes[:2], 28)


def test_masks_of_boxes_are_pasted() -> None:
    masks = ROIMasks(torch.ones(2, 4, 4))
    pasted = masks.to_bitmasks(torch.tensor([[1.0, 1.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]), 6, 5)
    assert pasted.image_size == (6, 5)
    assert pasted[0].get_bounding_boxes().tensor.tolist() == [[1, 1, 3, 4]]
    assert (len(masks), len(masks[0]), len(masks[torch.tensor([False, True])])) == (2, 1, 1)
    with pytest.raises(ValueError, match=r"\(R, S, S\)"):
        ROIMasks(torch.ones(4, 4))


def test_a_polygon_is_rasterized_within_a_box_as_in_crop_and_resize() -> None:
    polygons = [[0.0, 0, 8, 0, 8, 8, 0, 8]]
    box = torch.tensor([[4.0, 4.0, 12.0, 12.0]])
    grid = rasterize_polygons_within_box(polygons, box[0].numpy(), 8)
    assert torch.equal(grid, PolygonMasks([polygons]).crop_and_resize(box, 8)[0])
    assert grid.sum() == 16
