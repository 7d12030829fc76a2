import base64
import io

import numpy as np
import pytest
from PIL import Image

from detexport.contract import DETECTION_OUTPUTS
from detexport.report.drawing import LARGEST_PX, PALETTE, draw, image_uri
from tiny_artifacts import tiny_contract

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
