"""Drawings over an image: where pixels change, and in which colour."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detexport.structures import BitMasks, Boxes, BoxMode, Instances, RotatedBoxes
from detexport.utils.visualizer import ColorMode, VisImage, Visualizer

GREY = np.full((80, 100, 3), 100, np.uint8)
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


class Metadata(SimpleNamespace):
    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


METADATA = Metadata(
    thing_classes=["cat", "dog"],
    thing_colors=[[255, 0, 0], [0, 0, 255]],
    stuff_classes=["sky", "sea"],
    stuff_colors=[[0, 255, 0], [255, 255, 0]],
    keypoint_names=["head", "tail"],
    keypoint_connection_rules=[("head", "tail", (0, 0, 255))],
    label_divisor=1000,
    thing_dataset_id_to_contiguous_id={7: 1},
)


def changed(drawing: VisImage, image: np.ndarray = GREY) -> np.ndarray:
    return (drawing.get_image() != image).any(axis=2)


def test_a_box_is_drawn_along_its_edges() -> None:
    drawing = Visualizer(GREY).draw_box([20, 30, 60, 50], alpha=1.0, edge_color=RED)
    pixels = changed(drawing)
    rows, columns = pixels.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((30, 50, 20, 60), abs=1)
    assert not pixels[35:45, 25:55].any()
    assert drawing.get_image()[30, 40].tolist() == [255, 0, 0]
    dashed = changed(Visualizer(GREY).draw_box([20, 30, 60, 50], alpha=1.0, line_style="--"))
    assert 0 < dashed.sum() < pixels.sum()


def test_a_mask_is_filled_with_its_opacity() -> None:
    mask = np.zeros((80, 100), bool)
    mask[10:20, 30:50] = True
    drawing = Visualizer(GREY).draw_binary_mask(mask, color=RED, alpha=0.5)
    assert np.array_equal(changed(drawing), mask)
    assert drawing.get_image()[15, 40].tolist() == pytest.approx([178, 50, 50], abs=1)
    edged = Visualizer(GREY).draw_binary_mask(mask, color=RED, edge_color=BLUE, alpha=0.0)
    assert not changed(edged)[13:17, 33:47].any()
    assert edged.get_image()[10, 40].tolist() == [0, 0, 255]
    assert changed(Visualizer(GREY).draw_binary_mask(mask, color=RED, text="a text")).sum() > mask.sum()


def test_polygons_lines_circles_and_rotated_boxes() -> None:
    polygon = Visualizer(GREY).draw_polygon([[10, 10], [50, 10], [50, 40], [10, 40]], "b", alpha=1.0)
    assert polygon.get_image()[25, 30].tolist() == [0, 0, 255]
    line = changed(Visualizer(GREY).draw_line([10, 60], [20, 20], color="w"))
    assert line[20, 12:58].all()
    circle = changed(Visualizer(GREY).draw_circle((40, 40), color="#00ff00", radius=5))
    assert circle[40, 36:44].all()
    assert circle.sum() == pytest.approx(np.pi * 25, rel=0.25)
    rotated = changed(Visualizer(GREY).draw_rotated_box_with_label([50, 40, 40, 20, 90.0]))
    rows, columns = rotated.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((20, 60, 40, 60), abs=1)


@pytest.mark.parametrize(
    ("alignment", "low", "high"), [("left", 50, 99), ("right", 0, 50), ("center", 0, 99)]
)
def test_a_text_is_aligned(alignment: str, low: int, high: int) -> None:
    drawing = Visualizer(GREY).draw_text("text", (50, 30), horizontal_alignment=alignment)
    rows, columns = changed(drawing).nonzero()
    assert len(rows) > 20
    assert low - 1 <= columns.min()
    assert columns.max() <= high + 1
    assert rows.min() >= 29


def detections(**fields: Any) -> Instances:
    return Instances((80, 100), pred_classes=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.4]), **fields)


def test_detections_in_the_colours_of_their_classes() -> None:
    masks = torch.zeros(2, 80, 100, dtype=torch.bool)
    masks[0, 5:75, 5:45] = masks[1, 20:40, 60:80] = True
    found = detections(
        pred_boxes=Boxes([[5, 5, 45, 75], [60, 20, 80, 40]]),
        pred_masks=masks,
        pred_keypoints=torch.tensor([[[10.0, 60, 1], [40, 60, 1]], [[70, 30, 0], [75, 35, 0]]]),
    )
    drawer = Visualizer(GREY, METADATA, instance_mode=ColorMode.SEGMENTATION)
    image = drawer.draw_instance_predictions(found).get_image()
    assert image[50, 20].tolist() == pytest.approx([50, 50, 178], abs=2)
    assert image[35, 75].tolist() == pytest.approx([178, 50, 50], abs=2)
    assert image[60, 25].tolist() == [0, 0, 255]  # between the keypoints
    assert drawer.get_output().get_image().shape == (80, 100, 3)
    assert drawer._labels([1, 0], found.scores) == ["dog 90%", "cat 40%"]


def test_a_grey_image_keeps_its_colours_inside_masks() -> None:
    red = np.zeros_like(GREY)
    red[..., 0] = 90
    masks = torch.zeros(2, 80, 100, dtype=torch.bool)
    masks[:, 10:20, 10:20] = True
    drawer = Visualizer(red, METADATA, instance_mode=ColorMode.IMAGE_BW)
    image = drawer.draw_instance_predictions(detections(pred_masks=masks)).get_image()
    assert image[50, 50].tolist() == [30, 30, 30]
    assert image[18, 18].tolist() != image[50, 50].tolist()


def test_rotated_detections_and_wrong_numbers() -> None:
    found = detections(pred_boxes=RotatedBoxes([[50, 40, 40, 20, 30], [20, 20, 10, 10, 0]]))
    assert changed(Visualizer(GREY, METADATA).draw_instance_predictions(found)).any()
    with pytest.raises(ValueError, match="different numbers"):
        Visualizer(GREY).overlay_instances(boxes=np.zeros((2, 4)), labels=["one"])
    assert not changed(Visualizer(GREY).overlay_instances(boxes=np.zeros((0, 4)))).any()


def test_semantic_and_panoptic_maps() -> None:
    classes = np.full((80, 100), 255)
    classes[:40], classes[40:60] = 0, 1
    image = Visualizer(GREY, METADATA).draw_sem_seg(classes, area_threshold=1e6, alpha=1.0).get_image()
    assert (image[10, 10].tolist(), image[50, 10].tolist(), image[70, 10].tolist()) == (
        [0, 255, 0],
        [255, 255, 0],
        [100, 100, 100],
    )
    segments = [
        {"id": 1, "category_id": 1, "isthing": True},
        {"id": 2, "category_id": 0, "isthing": False},
    ]
    ids = np.zeros((80, 100), int)
    ids[:40], ids[60:] = 1, 2
    drawing = Visualizer(GREY, METADATA).draw_panoptic_seg(ids, segments, area_threshold=1e6, alpha=1.0)
    assert drawing.get_image()[70, 5].tolist() == [0, 255, 0]
    assert not changed(drawing)[45:55].any()
    coded = np.full((80, 100), -1)
    coded[:40], coded[60:] = 1003, 0
    drawing = Visualizer(GREY, METADATA).draw_panoptic_seg(coded, None, area_threshold=1e6, alpha=1.0)
    assert drawing.get_image()[70, 5].tolist() == [0, 255, 0]
    assert changed(drawing)[:40].all()


def test_a_record_of_a_data_set(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((80, 100), np.uint8)).save(tmp_path / "map.png")
    record = {
        "annotations": [
            {
                "bbox": [10, 10, 30, 20],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "segmentation": [[10, 10, 40, 10, 40, 30, 10, 30]],
                "keypoints": [15, 15, 2, 35, 25, 2],
            }
        ]
    }
    pixels = changed(Visualizer(GREY, METADATA).draw_dataset_dict(record))
    assert pixels[12:28, 12:38].all()
    assert not pixels[60:].any()
    record["sem_seg_file_name"] = str(tmp_path / "map.png")
    assert changed(Visualizer(GREY, METADATA).draw_dataset_dict(record)).all()


def test_a_drawing_is_scaled_and_saved(tmp_path: Path) -> None:
    drawing = Visualizer(GREY, scale=2.0).draw_box([20, 30, 60, 50], alpha=1.0, edge_color=RED)
    assert drawing.get_image().shape == (160, 200, 3)
    assert drawing.get_image()[60, 80].tolist() == [255, 0, 0]
    drawing.save(tmp_path / "drawn.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "drawn.png")), drawing.get_image())


def test_masks_of_several_kinds_are_the_same() -> None:
    bitmap = torch.zeros(1, 80, 100, dtype=torch.bool)
    bitmap[0, 10:30, 10:40] = True
    kinds = (bitmap, BitMasks(bitmap), [[[10.0, 10, 40, 10, 40, 30, 10, 30]]])
    images = [
        Visualizer(GREY).overlay_instances(masks=masks, assigned_colors=[RED]).get_image() for masks in kinds
    ]
    assert all(np.array_equal(image, images[0]) for image in images)


def test_a_record_with_a_panoptic_map(tmp_path: Path) -> None:
    ids = np.zeros((20, 30, 3), np.uint8)
    ids[5:15, 5:15, 1] = 1
    Image.fromarray(ids).save(tmp_path / "panoptic.png")
    record = {
        "pan_seg_file_name": str(tmp_path / "panoptic.png"),
        "segments_info": [{"id": 256, "category_id": 0, "isthing": True, "iscrowd": 0}],
    }
    visualizer = Visualizer(np.zeros((20, 30, 3), np.uint8))
    drawn = visualizer.draw_dataset_dict(record).get_image()
    assert drawn[10, 10].any()
    assert not drawn[18, 28].any()
    assert Visualizer.draw_panoptic_seg_predictions is Visualizer.draw_panoptic_seg
