from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.config import get_cfg
from detexport.data.coco import CocoRecord
from detexport.data.mapping import (
    GroundTruth,
    build_gt_instances,
    flip_instances,
    learnable,
    training_example,
)
from detexport.data.segmentation import annotation_mask
from detexport.errors import DataError

HEIGHT, WIDTH = 20, 30
BOXES, MASKS = GroundTruth(), GroundTruth(masks=True)
KEYPOINTS = GroundTruth(keypoints=True, min_keypoints=2)
SEM_SEG = GroundTruth(sem_seg=True)
RECTANGLE = [[4.0, 2.0, 10.0, 2.0, 10.0, 12.0, 4.0, 12.0]]


def annotation(**changes: Any) -> dict[str, Any]:
    fields = {"id": 1, "category_id": 2, "bbox": [4, 2, 6, 10], "segmentation": RECTANGLE, "iscrowd": 0}
    return {**fields, **changes}


def record(tmp_path: Path, *annotations: dict[str, Any]) -> CocoRecord:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return CocoRecord(1, tmp_path / "a.png", HEIGHT, WIDTH, annotations)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def test_each_kind_of_segmentation_gives_the_same_mask() -> None:
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:12, 4:10] = True
    compressed = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
    runs = np.flatnonzero(np.diff(np.concatenate([[0], expected.T.ravel(), [0]]))).tolist()
    counts = np.diff([0, *runs, expected.size]).tolist()
    for segmentation in (RECTANGLE, compressed, {"size": [HEIGHT, WIDTH], "counts": counts}):
        mask = annotation_mask(segmentation, HEIGHT, WIDTH)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)
    assert not annotation_mask([], HEIGHT, WIDTH).any()


def test_an_example(tmp_path: Path) -> None:
    example = training_example(record(tmp_path, annotation()), "RGB", MASKS)
    instances = example["instances"]
    np.testing.assert_array_equal(example["image"].numpy(), pixels_of(tmp_path / "a.png"))
    assert instances.image_size == (HEIGHT, WIDTH)
    assert instances.gt_boxes.tensor.tolist() == [[4, 2, 10, 12]]
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_masks.tensor.sum() == 60


def test_channel_order(tmp_path: Path) -> None:
    one = record(tmp_path)
    rgb, bgr = (training_example(one, order, MASKS)["image"] for order in ("RGB", "BGR"))
    np.testing.assert_array_equal(rgb.numpy(), bgr.numpy()[::-1])


def test_flip_of_image_boxes_and_masks(tmp_path: Path) -> None:
    one = record(
        tmp_path, annotation(), annotation(bbox=[20, 0, 10, 5], segmentation=[[20, 0, 30, 0, 30, 5]])
    )
    plain, flipped = (training_example(one, "RGB", MASKS, flip=flip) for flip in (False, True))
    np.testing.assert_array_equal(flipped["image"].numpy(), plain["image"].numpy()[:, :, ::-1])
    before, after = plain["instances"], flipped["instances"]
    assert after.gt_boxes.tensor.tolist() == [[20, 2, 26, 12], [0, 0, 10, 5]]
    np.testing.assert_array_equal(after.gt_masks.tensor.numpy(), before.gt_masks.tensor.numpy()[:, :, ::-1])
    # The mask is still inside its box.
    for mask, (x0, y0, x1, y1) in zip(after.gt_masks, after.gt_boxes.tensor.int().tolist(), strict=True):
        assert mask.sum() == mask[y0:y1, x0:x1].sum() > 0


def test_crowds_and_empty_instances_are_left_out(tmp_path: Path) -> None:
    example = training_example(
        record(
            tmp_path,
            annotation(iscrowd=1),
            annotation(bbox=[4, 2, 0, 10]),
            annotation(bbox=[40, 2, 6, 10]),
            annotation(segmentation=[]),
            annotation(category_id=3, bbox=[4, -2, 40, 10]),
        ),
        "RGB",
        MASKS,
    )
    assert example["instances"].gt_classes.tolist() == [3]
    assert example["instances"].gt_boxes.tensor.tolist() == [[4, 0, 30, 8]]
    assert len(example["instances"].gt_masks) == 1


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_without_objects(tmp_path: Path, flip: bool) -> None:
    instances = training_example(record(tmp_path), "RGB", MASKS, flip=flip)["instances"]
    assert len(instances) == 0
    assert instances.gt_masks.tensor.shape == (0, HEIGHT, WIDTH)
    assert instances.gt_boxes.tensor.shape == (0, 4)


def test_an_annotation_without_segmentation(tmp_path: Path) -> None:
    boxes_only = {k: v for k, v in annotation(id=77).items() if k != "segmentation"}
    with pytest.raises(DataError, match="annotation 77 has no segmentation"):
        training_example(record(tmp_path, boxes_only), "RGB", MASKS)


def test_only_required_annotations_are_read(tmp_path: Path) -> None:
    boxes_only = {k: v for k, v in annotation().items() if k != "segmentation"}
    instances = training_example(record(tmp_path, boxes_only), "RGB", BOXES)["instances"]
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}
    assert instances.gt_boxes.tensor.tolist() == [[4, 2, 10, 12]]


def test_keypoints_are_at_the_centers_of_their_pixels(tmp_path: Path) -> None:
    one = record(tmp_path, annotation(keypoints=[4, 2, 2, 9, 11, 1, 7, 7, 0]))
    keypoints = training_example(one, "RGB", KEYPOINTS)["instances"].gt_keypoints.tensor
    assert keypoints.tolist() == [[[4.5, 2.5, 2], [9.5, 11.5, 1], [0, 0, 0]]]


def test_flip_of_keypoints(tmp_path: Path) -> None:
    """The left keypoint of the flipped image is the right one of the image."""
    one = record(tmp_path, annotation(keypoints=[15, 9, 2, 4, 2, 2, 9, 11, 1, 0, 0, 0]))
    example = training_example(one, "RGB", KEYPOINTS, flip=True, keypoint_flip=(0, 2, 1, 3))
    assert example["instances"].gt_keypoints.tensor.tolist() == [
        [[14.5, 9.5, 2], [20.5, 11.5, 1], [25.5, 2.5, 2], [0, 0, 0]]
    ]
    twice = flip_instances(example["instances"], (0, 2, 1, 3))
    plain = training_example(one, "RGB", KEYPOINTS)["instances"]
    assert twice.gt_keypoints.tensor.tolist() == plain.gt_keypoints.tensor.tolist()
    assert twice.gt_boxes.tensor.tolist() == plain.gt_boxes.tensor.tolist()


def test_flip_does_not_change_its_argument(tmp_path: Path) -> None:
    instances = build_gt_instances([annotation()], (HEIGHT, WIDTH), MASKS)
    before = instances.gt_boxes.tensor.clone(), instances.gt_masks.tensor.clone()
    flip_instances(instances)
    assert (instances.gt_boxes.tensor == before[0]).all()
    assert (instances.gt_masks.tensor == before[1]).all()


@pytest.mark.parametrize("flip", [False, True])
def test_crowds_have_no_ground_truth_keypoints(tmp_path: Path, flip: bool) -> None:
    one = record(tmp_path, annotation(iscrowd=1, keypoints=[1, 1, 2] * 3))
    instances = training_example(one, "RGB", KEYPOINTS, flip=flip, keypoint_flip=(0, 2, 1))["instances"]
    assert len(instances) == len(instances.gt_keypoints) == 0


def test_learnable_images(tmp_path: Path) -> None:
    one, two = annotation(keypoints=[4, 2, 2, 0, 0, 0]), annotation(keypoints=[4, 2, 2, 9, 9, 1])
    images = [
        record(tmp_path, *things) for things in ((), (one,), (two,), (one, one), ({**two, "iscrowd": 1},))
    ]
    assert learnable(images, BOXES) == images[1:]
    assert learnable(images, KEYPOINTS) == images[2:4]


def test_an_annotation_without_keypoints(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotation 77 has no keypoints"):
        training_example(record(tmp_path, annotation(id=77)), "RGB", KEYPOINTS)


def test_instances_with_different_numbers_of_keypoints(tmp_path: Path) -> None:
    things = [annotation(keypoints=[4, 2, 2] * n) for n in (2, 3)]
    with pytest.raises(DataError, match="2 and 3 keypoints"):
        training_example(record(tmp_path, *things), "RGB", KEYPOINTS)


def with_sem_seg(tmp_path: Path, classes: np.ndarray) -> CocoRecord:
    Image.fromarray(classes).save(tmp_path / "classes.png")
    return replace(record(tmp_path, annotation()), sem_seg_file_name=tmp_path / "classes.png")


@pytest.mark.parametrize("flip", [False, True])
def test_semantic_segmentation(tmp_path: Path, flip: bool) -> None:
    classes = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    sem_seg = training_example(with_sem_seg(tmp_path, classes), "RGB", SEM_SEG, flip=flip)["sem_seg"]
    assert sem_seg.dtype == torch.int64
    np.testing.assert_array_equal(sem_seg.numpy(), classes[:, ::-1] if flip else classes)


def test_invalid_semantic_segmentations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no semantic segmentation"):
        training_example(record(tmp_path, annotation()), "RGB", SEM_SEG)
    with pytest.raises(
        DataError,
        match=r"classes\.png has another size .*height 3, width 4 .*expected: height 20, width 30",
    ):
        training_example(with_sem_seg(tmp_path, np.zeros((3, 4), np.uint8)), "RGB", SEM_SEG)
    with pytest.raises(DataError, match="not a label map"):
        training_example(with_sem_seg(tmp_path, np.zeros((HEIGHT, WIDTH, 3), np.uint8)), "RGB", SEM_SEG)


@pytest.mark.parametrize(
    ("architecture", "keys", "expected"),
    [
        ("GeneralizedRCNN", [], BOXES),
        ("GeneralizedRCNN", ["MODEL.MASK_ON", True], MASKS),
        ("RetinaNet", [], BOXES),
        (
            "GeneralizedRCNN",
            ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 2],
            KEYPOINTS,
        ),
        ("PanopticFPN", ["MODEL.MASK_ON", True], GroundTruth(masks=True, sem_seg=True)),
    ],
)
def test_ground_truth_of_a_configuration(architecture: str, keys: list[Any], expected: GroundTruth) -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", architecture, *keys])
    assert GroundTruth.of(cfg) == expected
