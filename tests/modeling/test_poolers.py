import pytest
import torch
from torchvision.ops import roi_align

from detexport.errors import ConfigError
from detexport.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
    rois_of,
)
from detexport.structures import Boxes, RotatedBoxes


def pooler(strides: list[int], **changes: object) -> ROIPooler:
    return ROIPooler(
        **{
            "output_size": 3,
            "scales": [1 / s for s in strides],
            "sampling_ratio": 2,
            "pooler_type": "ROIAlignV2",
            **changes,
        }
    )


def box(side: float) -> list[float]:
    return [3.0, 5.0, 3.0 + side, 5.0 + side]


def constant_levels(images: int = 1) -> list[torch.Tensor]:
    """Each level holds its own index: a pooled value tells the level."""
    return [torch.full((images, 1, 512 >> level, 512 >> level), float(level)) for level in range(4)]


@pytest.mark.parametrize(
    ("side", "level"),
    [(1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (447.9, 2), (448, 3), (900, 3), (1e-3, 0), (0, 0)],
)
def test_a_box_of_224_px_belongs_to_p4(side: float, level: int) -> None:
    pooled = pooler([4, 8, 16, 32]).pool(constant_levels(), [torch.tensor([box(side)])])
    assert pooled.unique().tolist() == [level]


def test_levels_end_at_those_that_are_there() -> None:
    pooled = pooler([8, 16]).pool(constant_levels()[1:3], [torch.tensor([box(5), box(900)])])
    assert pooled[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(("pooler_type", "aligned"), [("ROIAlignV2", True), ("ROIAlign", False)])
def test_order_of_the_boxes_over_levels_and_images(pooler_type: str, aligned: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(2, 2, 64 >> level, 64 >> level, generator=generator) for level in range(4)]
    sides = [[300, 20, 130, 500, 21], [100, 230]]
    boxes = [torch.tensor([box(side) for side in image]) for image in sides]
    pooled = pooler([4, 8, 16, 32], pooler_type=pooler_type).pool(features, boxes)
    assert pooled.shape == (7, 2, 3, 3)
    levels = [[2, 0, 1, 3, 0], [0, 2]]
    alone = [
        roi_align(features[level][image, None], [one[None]], 3, 0.25 / 2**level, 2, aligned)
        for image in range(2)
        for level, one in zip(levels[image], boxes[image], strict=True)
    ]
    assert torch.equal(pooled, torch.cat(alone))
    rich = pooler([4, 8, 16, 32], pooler_type=pooler_type)(features, [Boxes(b) for b in boxes])
    assert torch.equal(rich, pooled)


@pytest.mark.parametrize("strides", [[4, 8, 16, 32], [16]])
def test_no_box(strides: list[int]) -> None:
    features = constant_levels(2) if len(strides) > 1 else constant_levels(2)[2:3]
    empty = torch.zeros(0, 4)
    assert pooler(strides).pool(features, [empty, empty]).shape == (0, 1, 3, 3)
    assert pooler(strides).pool(features, [empty, torch.tensor([box(30)])]).shape == (1, 1, 3, 3)
    assert rois_of([empty, torch.tensor([box(30)])])[:, 0].tolist() == [1]


def test_roi_pool_is_the_maximum_of_whole_pixels() -> None:
    feature = torch.arange(64.0).reshape(1, 1, 8, 8)
    # Corners at 4 px and 18 px of a map at stride 2: its pixels 2 to 9, of which 2 to 7 are there.
    pooled = pooler([2], pooler_type="ROIPool", output_size=2).pool(
        [feature], [torch.tensor([[4.0, 4.0, 10.0, 11.0]])]
    )
    rows, columns = slice(2, 7), slice(2, 6)
    window = feature[0, 0, rows, columns]
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0].tolist() == [
        [window[0:3, 0:2].max(), window[0:3, 2:4].max()],
        [window[2:5, 0:2].max(), window[2:5, 2:4].max()],
    ]


def test_what_cannot_be_pooled_is_refused() -> None:
    with pytest.raises(ConfigError, match="POOLER_TYPE: ROIAlignTilted"):
        pooler([4], pooler_type="ROIAlignTilted")
    for strides in ([4, 16], [8, 4], [4, 12]):
        with pytest.raises(ConfigError, match="levels must double"):
            pooler(strides)


def test_the_level_of_a_box_is_the_one_that_the_pooler_uses() -> None:
    sides = [1.0, 111.9, 112, 223.9, 224, 447.9, 448, 900]
    boxes = Boxes([box(side) for side in sides])
    levels = assign_boxes_to_levels([boxes[:3], boxes[3:]], 2, 5, 224, 4)
    pooled = pooler([4, 8, 16, 32]).pool(constant_levels(), [boxes.tensor])
    assert levels.tolist() == pooled[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    rotated = RotatedBoxes([[50, 50, side, side, 30] for side in sides])
    assert assign_boxes_to_levels([rotated], 2, 5, 224, 4).tolist() == levels.tolist()


def test_boxes_in_the_format_of_a_pooler() -> None:
    found = convert_boxes_to_pooler_format([Boxes([[1, 2, 3, 4]]), Boxes([]), Boxes([[5, 6, 7, 8]])])
    assert found.tolist() == [[0, 1, 2, 3, 4], [2, 5, 6, 7, 8]]
    rotated = convert_boxes_to_pooler_format([RotatedBoxes([[1, 2, 3, 4, 5]])])
    assert rotated.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_grid_is_square() -> None:
    assert pooler([4], output_size=(3, 3)).output_size == 3
    with pytest.raises(ConfigError, match="must be square"):
        pooler([4], output_size=(3, 5))


def test_rotated_boxes_of_angle_0_are_pooled_as_plain_boxes() -> None:
    """Each level as ``roi_align_rotated`` pools it, in the order of the boxes."""
    features = [torch.randn(1, 2, 64 // stride, 64 // stride) for stride in (4, 8, 16)]
    plain = torch.tensor([[4.0, 4.0, 60.0, 50.0], [10.0, 12.0, 20.0, 30.0], [0.0, 0.0, 64.0, 64.0]])
    rotated = torch.cat(
        ((plain[:, :2] + plain[:, 2:]) / 2, plain[:, 2:] - plain[:, :2], torch.zeros(3, 1)), 1
    )
    options = {
        "scales": [1 / 4, 1 / 8, 1 / 16],
        "output_size": 7,
        "sampling_ratio": 2,
        "canonical_box_size": 32,
    }
    options["canonical_level"] = 3
    of_plain = ROIPooler(pooler_type="ROIAlignV2", **options)
    of_rotated = ROIPooler(pooler_type="ROIAlignRotated", **options)
    pooled = of_rotated(features, [RotatedBoxes(rotated)])
    torch.testing.assert_close(pooled, of_plain(features, [Boxes(plain)]), rtol=1e-4, atol=1e-5)
