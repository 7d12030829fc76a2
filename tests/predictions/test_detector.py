"""A loaded artifact on one image of each kind, and on the inputs of the eager model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import detexport
from detexport.data import resize_image
from detexport.errors import DataError, InputError
from photos import SIZE, assert_same
from tiny_artifacts import tiny_contract, tiny_image, write_tiny_onnx


@pytest.mark.parametrize("kind", ["str", "pil", "array", "bgr array", "view", "tensor", "bgr tensor"])
def test_each_kind_of_image_gives_the_same_detections(
    kind: str, detector: detexport.Detector, photo: Path, pixels: np.ndarray
) -> None:
    given: dict[str, Any] = {
        "str": str(photo),
        "pil": Image.open(photo),
        "array": pixels,
        "bgr array": pixels[..., ::-1],
        "view": np.asfortranarray(pixels),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "bgr tensor": torch.from_numpy(pixels).permute(2, 0, 1).flip(0),
    }
    order: Any = {"channel_order": "BGR"} if "bgr" in kind else {}
    assert_same(detector(given[kind], **order), detector(photo))


def test_a_model_of_bgr_sees_bgr(tmp_path: Path, photo: Path, pixels: np.ndarray) -> None:
    write_tiny_onnx(tmp_path / "bgr", contract=tiny_contract(channel_order="BGR"))
    found = detexport.load(tmp_path / "bgr")(pixels)
    means = pixels[..., ::-1].mean((0, 1))  # the tiny model's class i is as bright as the i-th channel
    assert found.classes.tolist() == np.argsort(-means).tolist()
    assert_same(detexport.load(tmp_path / "bgr")(photo), found)


def test_a_list_of_dicts_gives_the_eager_models_structures(
    detector: detexport.Detector, pixels: np.ndarray, photo: Path
) -> None:
    resized = torch.from_numpy(resize_image(tiny_image(*SIZE), (40, 60)))
    (outputs,) = detector([{"image": resized, "height": SIZE[0], "width": SIZE[1]}])
    found, instances = detector(photo), outputs["instances"]
    np.testing.assert_array_equal(instances.pred_boxes.tensor.numpy(), found.boxes)
    np.testing.assert_array_equal(instances.scores.numpy(), found.scores)
    np.testing.assert_array_equal(instances.pred_masks.numpy(), found.masks)


def test_a_picture_and_a_file_are_upright(
    detector: detexport.Detector, pixels: np.ndarray, tmp_path: Path
) -> None:
    turned = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = detector(pixels)
    assert_same(detector(tmp_path / "turned.png"), expected)
    assert_same(detector(Image.open(tmp_path / "turned.png")), expected)


def test_the_threshold_drops_lower_scores(detector: detexport.Detector, photo: Path) -> None:
    scores = detector(photo).scores
    found = detector(photo, score_threshold=float(scores[1]))
    np.testing.assert_array_equal(found.scores, scores[:1])
    assert found.masks.shape == (1, *SIZE)
    assert len(detector(np.zeros((*SIZE, 3), np.uint8))) == 0


def test_options_are_checked(detector: detexport.Detector, photo: Path, pixels: np.ndarray) -> None:
    wrong: Any = "GBR"
    with pytest.raises(InputError, match="got: 'GBR'; expected: RGB or BGR"):
        detector(pixels, channel_order=wrong)
    with pytest.raises(InputError, match=r"score_threshold is out of range; got: 1.5"):
        detector(photo, score_threshold=1.5)
    batch: Any = [{"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}]
    with pytest.raises(InputError, match="takes no options"):
        detector(batch, score_threshold=0.5)
    with pytest.raises(DataError, match=r"missing.png cannot be read"):
        detector("missing.png")
    with pytest.raises(DataError, match="not an image of 8 bits"):
        detector(Image.new("F", (8, 8)))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "at least one image"),
        ([{}], "has no image"),
        (["a.png", "b.png"], "got: list; .*one image a call"),
    ],
)
def test_a_list_is_the_input_of_the_eager_model(
    detector: detexport.Detector, batch: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        detector(batch)


def test_a_console_shows_the_artifact_and_where_it_runs(detector: detexport.Detector) -> None:
    assert repr(detector) == f"Detector(ONNX, outputs: instances, on cpu, {detector.artifact.sha256[:12]})"
