import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detexport.contract import DETECTION_OUTPUTS
from detexport.predictions.drawing import LARGEST_PX, MOST_PROPOSALS, PALETTE, draw, image_uri, save_drawing
from tiny_artifacts import KINDS, tiny_contract

CONTRACT = tiny_contract(class_names=("circle", "star"))


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def detections(size: tuple[int, int] = (40, 60)) -> dict[str, np.ndarray]:
    masks = np.zeros((2, *size), bool)
    masks[0, 10:20, 10:30] = True
    masks[1, 12:18, 20:50] = True
    return {
        "pred_boxes": np.array([[10, 10, 30, 20], [20, 12, 50, 18]], np.float32),
        "scores": np.array([0.9, 0.5], np.float32),
        "pred_classes": np.array([1, 0]),
        "pred_masks": masks,
    }


def test_masks_cover_their_pixels_and_the_best_score_lies_on_top() -> None:
    pixels = np.asarray(decode(draw(detections(), CONTRACT, (40, 60), min_score=0.0).regions).convert("RGBA"))
    circle, star = (tuple(bytes.fromhex(colour[1:])) for colour, _ in PALETTE[:2])
    assert pixels.shape == (40, 60, 4)
    assert tuple(pixels[15, 25, :3]) == star, "where both are"
    assert tuple(pixels[15, 40, :3]) == circle
    assert pixels[0, 0, 3] == 0
    assert (pixels[..., 3] > 0).sum() == detections()["pred_masks"].any(0).sum()
    assert pixels[10, 10, 3] > pixels[15, 25, 3] > 0, "the edge stands out"


def test_labels_say_class_and_score_and_stay_inside() -> None:
    overlay = draw(detections(), CONTRACT, (40, 60), min_score=0.0)
    assert [label.text for label in overlay.labels] == ["circle 0.50", "star 0.90"]
    for label in overlay.labels:
        assert 0 <= label.text_x <= label.text_x + label.text_width <= 60 + 1e-6
        assert label.text_y >= 0
    assert (
        draw({**detections(), "pred_classes": np.array([7, 0])}, CONTRACT, (40, 60), min_score=0.0)
        .labels[1]
        .text
        == "class 7 0.90"
    )


def test_what_is_below_the_least_score_is_left_out() -> None:
    overlay = draw(detections(), CONTRACT, (40, 60), min_score=0.6)
    assert [label.text for label in overlay.labels] == ["star 0.90"]
    pixels = np.asarray(decode(overlay.regions).convert("RGBA"))
    assert (pixels[..., 3] > 0).sum() == detections()["pred_masks"][0].sum()


def test_nothing_and_no_masks_are_drawn_too() -> None:
    nothing = {name: value[:0] for name, value in detections().items()}
    assert draw(nothing, CONTRACT, (40, 60), min_score=0.0).labels == ()
    boxes = {name: value for name, value in detections().items() if name != "pred_masks"}
    contract = tiny_contract(outputs=DETECTION_OUTPUTS)
    assert draw(boxes, contract, (40, 60), min_score=0.0).regions == ""
    assert len(draw(boxes, contract, (40, 60), min_score=0.0).labels) == 2


@pytest.mark.parametrize(("order", "expected"), [("RGB", (250, 5, 5)), ("BGR", (5, 5, 250))])
def test_an_image_has_its_colours(order: str, expected: tuple[int, int, int]) -> None:
    image = np.array([250, 5, 5], np.uint8)[:, None, None].repeat(16, 1).repeat(16, 2)
    pixel = np.asarray(decode(image_uri(image, order)).convert("RGB"))[8, 8]
    np.testing.assert_allclose(pixel, expected, atol=6)


def test_large_pictures_are_made_smaller() -> None:
    size = (LARGEST_PX * 2, LARGEST_PX)
    assert max(decode(image_uri(np.zeros((3, *size), np.uint8), "RGB")).size) == LARGEST_PX
    assert max(decode(draw(detections(size), CONTRACT, size, min_score=0.0).regions).size) <= LARGEST_PX


def panoptic() -> dict[str, Any]:
    ids = np.zeros((40, 60), np.int32)
    ids[10:20, 10:30], ids[30:] = 1, 2
    thing = {"id": 1, "isthing": True, "score": 0.9, "category_id": 1, "instance_id": 0}
    stuff = {"id": 2, "isthing": False, "category_id": 2, "area": 600}
    return detections() | {"panoptic_seg": ids, "segments_info": [thing, stuff]}


def colour_at(uri: str, row: int, column: int) -> tuple[int, ...]:
    return tuple(np.asarray(decode(uri).convert("RGBA"))[row, column].tolist())


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_segments_take_the_place_of_masks_and_stuff_is_in_the_legend() -> None:
    contract = tiny_contract(**KINDS["panoptic"])
    overlay = draw(panoptic(), contract, (40, 60), min_score=0.0)
    assert colour_at(overlay.regions, 15, 20)[:3] == rgb(PALETTE[1][0])
    ((name, colour, _),) = overlay.legend
    assert name == "blue"
    assert colour_at(overlay.regions, 35, 5)[:3] == rgb(colour)
    assert colour_at(overlay.regions, 25, 5)[3] == 0, "no segment"
    assert len(overlay.labels) == 2


def test_classes_of_pixels_have_the_colours_of_the_legend() -> None:
    sem_seg = np.zeros((3, 40, 60), np.float32)
    sem_seg[1, :, :30], sem_seg[2, :, 30:] = 1, 1
    overlay = draw({"sem_seg": sem_seg}, tiny_contract(**KINDS["semantic"]), (40, 60), min_score=0.0)
    assert [name for name, _, _ in overlay.legend] == ["green", "blue"]
    assert [colour_at(overlay.regions, 20, x)[:3] for x in (10, 50)] == [rgb(c) for _, c, _ in overlay.legend]
    assert (overlay.labels, overlay.points) == ((), ())


def test_keypoints_of_what_is_drawn_are_drawn() -> None:
    contract = tiny_contract(**KINDS["keypoints"])
    outputs = {name: value for name, value in detections().items() if name != "pred_masks"}
    outputs["pred_keypoints"] = np.array([[[12, 11, 1], [28, 19, 1]], [[21, 13, 1], [49, 17, 1]]], np.float32)
    overlay = draw(outputs, contract, (40, 60), min_score=0.6)
    assert [(point.x, point.y) for point in overlay.points] == [(12, 11), (28, 19)]
    assert overlay.points[0].colour != overlay.points[1].colour


def test_the_best_proposals_are_drawn_without_text() -> None:
    boxes = np.arange(200, dtype=np.float32).reshape(50, 4)
    outputs = {"proposal_boxes": boxes, "objectness_logits": np.linspace(9, -9, 50, dtype=np.float32)}
    overlay = draw(outputs, tiny_contract(**KINDS["proposals"]), (40, 60), min_score=0.5)
    assert len(overlay.labels) == MOST_PROPOSALS
    assert {label.text for label in overlay.labels} == {""}
    assert (overlay.labels[-1].x, overlay.labels[-1].y) == (0, 1), "the best on top"


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_picture_of_its_own_has_the_images_size_and_colours(order: str, tmp_path: Path) -> None:
    image = np.array([250, 5, 5], np.uint8)[:, None, None].repeat(40, 1).repeat(60, 2)
    overlay = draw(detections(), CONTRACT, (40, 60), min_score=0.6)
    save_drawing(tmp_path / "new/picture.png", image, order, overlay)
    pixels = np.asarray(Image.open(tmp_path / "new/picture.png"))
    assert pixels.shape == (40, 60, 3)
    assert tuple(pixels[38, 58]) == ((250, 5, 5) if order == "RGB" else (5, 5, 250)), "nothing is drawn here"
    star = rgb(PALETTE[1][0])
    assert tuple(pixels[19, 10]) == star, "the box's edge"
    inside, ground = pixels[15, 20].astype(int), pixels[38, 58].astype(int)
    assert np.abs(inside - star).sum() < np.abs(ground - star).sum(), "the mask lets the image through"


def test_a_large_picture_keeps_its_size(tmp_path: Path) -> None:
    size = (LARGEST_PX + 101, LARGEST_PX * 2)
    overlay = draw(detections(size), CONTRACT, size, min_score=0.0)
    save_drawing(tmp_path / "large.png", np.zeros((3, *size), np.uint8), "RGB", overlay)
    assert Image.open(tmp_path / "large.png").size == size[::-1]
