from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.config import get_cfg
from detexport.data import MetadataCatalog
from detexport.data import detection_utils as utils
from detexport.data import transforms as T
from detexport.errors import ConfigError, DataError
from detexport.structures import BitMasks, BoxMode, PolygonMasks, RotatedBoxes

SQUARE = [4, 6, 20, 6, 20, 24, 4, 24]
SIZE = (40, 60)


def annotation(**changes: Any) -> dict[str, Any]:
    value = {
        "bbox": [4, 6, 16, 18],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 2,
        "segmentation": [list(SQUARE)],
        "keypoints": [10.5, 10.5, 2, 6.5, 8.5, 1, 0.5, 0.5, 0],
    }
    return {**value, **changes}


def test_read_image_in_each_format(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png", "RGB"), pixels)
    np.testing.assert_array_equal(utils.read_image(str(tmp_path / "a.png"), "BGR"), pixels[..., ::-1])
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png"), pixels)
    labels = Image.fromarray(pixels[..., 0]).convert("P")
    labels.putpalette([0, 0, 0] * 256)
    labels.save(tmp_path / "labels.png")
    read = utils.read_image(tmp_path / "labels.png", "L")
    assert read.shape == (5, 7, 1)
    np.testing.assert_array_equal(read[..., 0], pixels[..., 0])
    with pytest.raises(DataError, match="not a label map"):
        utils.read_image(tmp_path / "a.png", "L")
    with pytest.raises(DataError, match="cannot be read"):
        utils.read_image(tmp_path / "none.png", "L")
    with pytest.raises(ValueError, match=r"'YUV-BT\.601'"):
        utils.read_image(tmp_path / "a.png", "YUV-BT.601")


def test_the_size_is_checked_or_added() -> None:
    record: dict[str, Any] = {}
    utils.check_image_size(record, np.zeros((5, 7, 3)))
    assert record == {"height": 5, "width": 7}
    with pytest.raises(DataError, match=r"height 5, width 7 .*; expected: height 5, width 8"):
        utils.check_image_size({"height": 5, "width": 8}, np.zeros((5, 7, 3)))


def test_an_annotation_is_transformed_with_its_image() -> None:
    transforms = [T.HFlipTransform(60), T.ResizeTransform(40, 60, 80, 60)]
    done = utils.transform_instance_annotations(
        annotation(), transforms, (80, 60), keypoint_hflip_indices=np.array([0, 2, 1])
    )
    assert done["bbox"].tolist() == [40, 12, 56, 48]
    assert done["bbox_mode"] == BoxMode.XYXY_ABS
    polygon = done["segmentation"][0].reshape(-1, 2)
    assert (polygon.min(axis=0).tolist(), polygon.max(axis=0).tolist()) == ([40, 12], [56, 48])
    # The eyes are swapped; the unlabelled one stays unlabelled.
    assert done["keypoints"].tolist() == [[49.5, 21, 2], [0, 0, 0], [53.5, 17, 1]]


def test_boxes_are_clipped_and_keypoints_outside_lose_their_label() -> None:
    done = utils.transform_instance_annotations(annotation(), T.CropTransform(8, 9, 10, 10), (10, 10))
    assert done["bbox"].tolist() == [0, 0, 10, 10]
    assert done["keypoints"].tolist() == [[2.5, 1.5, 2], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(DataError, match="after a horizontal flip"):
        utils.transform_instance_annotations(annotation(), [T.HFlipTransform(60)], SIZE)


@pytest.mark.parametrize("kind", ["rle", "counts", "bitmap", "polygon"])
def test_each_kind_of_segmentation_gives_the_same_bitmap(kind: str) -> None:
    bitmap = np.zeros(SIZE, np.uint8)
    bitmap[6:24, 4:20] = 1
    rle = coco_mask.encode(np.asfortranarray(bitmap))
    runs = np.flatnonzero(np.diff(np.concatenate([[0], bitmap.T.ravel()]))).tolist()
    counts = np.diff([0, *runs, bitmap.size]).tolist()
    segmentation = {
        "rle": rle,
        "counts": {"size": list(SIZE), "counts": counts},
        "bitmap": bitmap.astype(bool),
        "polygon": [SQUARE],
    }[kind]
    flip = T.HFlipTransform(60)
    done = utils.transform_instance_annotations(
        annotation(segmentation=segmentation), flip, SIZE, keypoint_hflip_indices=np.arange(3)
    )
    masks = utils.annotations_to_instances([done], SIZE, mask_format="bitmask").gt_masks
    assert isinstance(masks, BitMasks)
    np.testing.assert_array_equal(masks.tensor[0].numpy(), bitmap[:, ::-1].astype(bool))
    if kind != "polygon":
        with pytest.raises(DataError, match=r"got: ndarray.*RLE.*MASK_FORMAT to bitmask"):
            utils.annotations_to_instances([done], SIZE)


def test_annotations_as_instances() -> None:
    instances = utils.annotations_to_instances([annotation(), annotation(category_id=0)], SIZE)
    assert instances.image_size == SIZE
    assert instances.gt_boxes.tensor.tolist() == [[4, 6, 20, 24]] * 2
    assert instances.gt_classes.tolist() == [2, 0]
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert instances.gt_masks.area().tolist() == [288, 288]
    assert instances.gt_keypoints.tensor.shape == (2, 3, 3)
    none = utils.annotations_to_instances([], SIZE)
    assert (len(none), none.gt_boxes.tensor.shape, none.gt_classes.dtype) == (0, (0, 4), torch.int64)
    with pytest.raises(ValueError, match="polygon or bitmask"):
        utils.annotations_to_instances([], SIZE, mask_format="rle")


def test_empty_instances_are_removed() -> None:
    instances = utils.annotations_to_instances(
        [annotation(), annotation(bbox=[4, 6, 0, 18]), annotation(segmentation=[])], SIZE
    )
    assert len(utils.filter_empty_instances(instances)) == 1
    assert len(utils.filter_empty_instances(instances, by_mask=False)) == 2
    kept, which = utils.filter_empty_instances(instances, by_box=False, return_mask=True)
    assert which.tolist() == [True, True, False]
    assert len(kept) == 2
    assert len(utils.filter_empty_instances(instances, box_threshold=17)) == 0
    with pytest.raises(ValueError, match="by box, by mask"):
        utils.filter_empty_instances(instances, by_box=False, by_mask=False)


def test_proposals_are_transformed_with_their_image() -> None:
    record = {
        "proposal_boxes": np.array([[0.0, 0, 30, 20], [10, 10, 10, 20], [50, 30, 20, 20], [1, 1, 2, 2]]),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
        "proposal_objectness_logits": [4.0, 3.0, 2.0, 1.0],
    }
    record["proposal_boxes"][2] = [50, 30, 90, 90]
    utils.transform_proposals(record, (80, 60), T.ResizeTransform(40, 60, 80, 60), proposal_topk=2)
    assert set(record) == {"proposals"}
    assert record["proposals"].proposal_boxes.tensor.tolist() == [[0, 0, 30, 40], [50, 60, 60, 80]]
    assert record["proposals"].objectness_logits.tolist() == [4, 2]


@pytest.fixture
def keypoint_names() -> Iterator[None]:
    MetadataCatalog.get("utils_a").set(
        keypoint_names=["nose", "left", "right"], keypoint_flip_map=[("left", "right")]
    )
    yield
    for name in ("utils_a", "utils_b"):
        MetadataCatalog.get(name)
        MetadataCatalog.remove(name)


@pytest.mark.usefixtures("keypoint_names")
def test_keypoint_indices_after_a_horizontal_flip() -> None:
    assert utils.create_keypoint_hflip_indices("utils_a").tolist() == [0, 2, 1]
    with pytest.raises(DataError, match="utils_a, utils_b do not have one keypoint_names"):
        utils.create_keypoint_hflip_indices(["utils_a", "utils_b"])


def test_augmentations_of_a_configuration() -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (30, 33), "range"
    resize, flip = utils.build_augmentation(cfg, is_train=True)
    assert (resize.short_edge_length, resize.sample_style) == ([30, 33], "range")
    assert flip.horizontal
    (resize,) = utils.build_augmentation(cfg, is_train=False)
    assert (resize.short_edge_length, resize.max_size) == ([800], 1333)
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(utils.build_augmentation(cfg, is_train=True)) == 1
    cfg.INPUT.RANDOM_FLIP = "vertical"
    assert not utils.build_augmentation(cfg, is_train=True)[1].horizontal
    cfg.INPUT.RANDOM_FLIP = "diagonal"
    with pytest.raises(ConfigError, match=r"INPUT\.RANDOM_FLIP: diagonal"):
        utils.build_augmentation(cfg, is_train=True)
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN = "none", (30,)
    with pytest.raises(ConfigError, match=r"INPUT\.MIN_SIZE_TRAIN_SAMPLING: range"):
        utils.build_augmentation(cfg, is_train=True)


def test_images_become_rgb() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(utils.convert_image_to_rgb(pixels, "BGR"), pixels[..., ::-1])
    np.testing.assert_array_equal(utils.convert_image_to_rgb(torch.from_numpy(pixels), "RGB"), pixels)
    grey = utils.convert_image_to_rgb(pixels[..., :1], "L")
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    with pytest.raises(ValueError, match="BGR, RGB or L"):
        utils.convert_image_to_rgb(pixels, "YUV")


def test_a_crop_contains_the_centre_of_its_instance() -> None:
    np.random.seed(0)
    instance = {"bbox": [50, 2, 8, 4], "bbox_mode": BoxMode.XYWH_ABS}
    for _ in range(30):
        crop = utils.gen_crop_transform_with_instance((10, 12), SIZE, instance)
        assert crop.x0 <= 54 <= crop.x0 + 12 <= 60
        assert 0 <= crop.y0 <= 4 <= crop.y0 + 10
    with pytest.raises(ValueError, match="larger than the image"):
        utils.gen_crop_transform_with_instance((50, 12), SIZE, instance)


def test_rotated_annotations() -> None:
    annos = [
        {"bbox": [10, 10, 6, 4, 30], "category_id": 3},
        {"bbox": [0, 0, 10, 10, 360], "category_id": 1},
    ]
    instances = utils.annotations_to_instances_rotated(annos, SIZE)
    assert isinstance(instances.gt_boxes, RotatedBoxes)
    assert instances.gt_boxes.tensor.tolist() == [[10, 10, 6, 4, 30], [2.5, 2.5, 5, 5, 0]]
    assert instances.gt_classes.tolist() == [3, 1]
    assert len(utils.annotations_to_instances_rotated([], SIZE)) == 0


def test_another_size_than_the_records_has_its_own_error() -> None:
    with pytest.raises(utils.SizeMismatchError, match="5"):
        utils.check_image_size({"file_name": "a.png", "height": 4, "width": 7}, np.zeros((5, 7, 3)))
