"""Mean IoU of pixels, against values that are computed by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detexport.data.coco import CocoRecord
from detexport.metrics.pixel_iou import UNLABELLED, PixelIou


@pytest.fixture
def record(tmp_path: Path) -> CocoRecord:
    labels = np.array([[0, 0, 1, UNLABELLED]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    return CocoRecord(1, tmp_path / "image.png", 1, 4, (), sem_seg_file_name=tmp_path / "labels.png")


def logits(classes: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes].T[:, None]


def test_iou_is_the_mean_over_predicted_and_annotated_classes(record: CocoRecord) -> None:
    iou = PixelIou()
    iou.add(record, logits([0, 1, 1, 2]))  # the last pixel is unlabelled
    assert iou.result() == {"sem_seg/mIoU": pytest.approx((1 / 2 + 1 / 2) / 2)}


def test_counts_accumulate_over_images(record: CocoRecord) -> None:
    iou = PixelIou()
    iou.add(record, logits([0, 0, 1, 0]))
    iou.add(record, logits([2, 2, 1, 0]))
    assert iou.result() == {"sem_seg/mIoU": pytest.approx((2 / 4 + 2 / 2 + 0) / 3)}


def test_without_an_image_there_is_no_metric() -> None:
    assert PixelIou().result() == {}
