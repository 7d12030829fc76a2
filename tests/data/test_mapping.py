from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detexport.data.coco import CocoRecord
from detexport.data.mapping import annotation_mask, training_example
from detexport.errors import DataError

HEIGHT, WIDTH = 20, 30
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


def test_every_kind_of_segmentation_gives_one_mask() -> None:
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
    example = training_example(record(tmp_path, annotation()), "RGB")
    instances = example["instances"]
    np.testing.assert_array_equal(example["image"].numpy(), pixels_of(tmp_path / "a.png"))
    assert instances.image_size == (HEIGHT, WIDTH)
    assert instances.gt_boxes.tensor.tolist() == [[4, 2, 10, 12]]
    assert instances.gt_classes.tolist() == [2]
    assert instances.gt_masks.tensor.sum() == 60


def test_channels_in_the_order_asked_for(tmp_path: Path) -> None:
    one = record(tmp_path)
    rgb, bgr = (training_example(one, order)["image"] for order in ("RGB", "BGR"))
    np.testing.assert_array_equal(rgb.numpy(), bgr.numpy()[::-1])


def test_flip_mirrors_image_boxes_and_masks(tmp_path: Path) -> None:
    one = record(
        tmp_path, annotation(), annotation(bbox=[20, 0, 10, 5], segmentation=[[20, 0, 30, 0, 30, 5]])
    )
    plain, flipped = (training_example(one, "RGB", flip=flip) for flip in (False, True))
    np.testing.assert_array_equal(flipped["image"].numpy(), plain["image"].numpy()[:, :, ::-1])
    before, after = plain["instances"], flipped["instances"]
    assert after.gt_boxes.tensor.tolist() == [[20, 2, 26, 12], [0, 0, 10, 5]]
    np.testing.assert_array_equal(after.gt_masks.tensor.numpy(), before.gt_masks.tensor.numpy()[:, :, ::-1])
    # A mask still lies in its box.
    for mask, (x0, y0, x1, y1) in zip(after.gt_masks, after.gt_boxes.tensor.int().tolist(), strict=True):
        assert mask.sum() == mask[y0:y1, x0:x1].sum() > 0


def test_crowds_and_what_is_empty_are_left_out(tmp_path: Path) -> None:
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
    )
    assert example["instances"].gt_classes.tolist() == [3]
    assert example["instances"].gt_boxes.tensor.tolist() == [[4, 0, 30, 8]]
    assert len(example["instances"].gt_masks) == 1


@pytest.mark.parametrize("flip", [False, True])
def test_an_image_without_objects(tmp_path: Path, flip: bool) -> None:
    instances = training_example(record(tmp_path), "RGB", flip=flip)["instances"]
    assert len(instances) == 0
    assert instances.gt_masks.tensor.shape == (0, HEIGHT, WIDTH)
    assert instances.gt_boxes.tensor.shape == (0, 4)


def test_an_annotation_without_segmentation(tmp_path: Path) -> None:
    boxes_only = {k: v for k, v in annotation(id=77).items() if k != "segmentation"}
    with pytest.raises(DataError, match="annotation 77 has no segmentation"):
        training_example(record(tmp_path, boxes_only), "RGB")
