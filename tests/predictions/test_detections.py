"""The detections of one image: documented arrays, in px of the image, of what the model predicts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detexport
from detexport.predictions.detections import Detections, MissingOutputError
from photos import FIELDS, SIZE
from tiny_artifacts import KINDS, tiny_contract, tiny_image, write_tiny_onnx


def test_detections_are_documented_arrays(detector: detexport.Detector, photo: Path) -> None:
    found = detector(photo)
    assert (len(found), found.height, found.width) == (3, *SIZE)
    assert [(getattr(found, name).dtype, getattr(found, name).shape) for name in FIELDS] == [
        (np.float32, (3, 4)),
        (np.float32, (3,)),
        (np.int64, (3,)),
        (bool, (3, *SIZE)),
    ]
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [90, 60, 90, 60]).all()
    assert found.class_names == [detector.contract.class_names[index] for index in found.classes]


def test_the_detections_are_drawn(detector: detexport.Detector, photo: Path, tmp_path: Path) -> None:
    detector(photo).save_drawing(tmp_path / "drawn.png")
    drawn = np.asarray(Image.open(tmp_path / "drawn.png"))
    assert drawn.shape == (*SIZE, 3)
    assert (drawn != np.asarray(Image.open(photo))).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_has_the_outputs_that_it_predicts(kind: str, photo: Path, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / kind, kind)
    found = detexport.load(tmp_path / kind)(photo)
    attributes = {
        "pred_boxes": "boxes",
        "pred_masks": "masks",
        "pred_keypoints": "keypoints",
        "sem_seg": "sem_seg",
        "panoptic_seg": "panoptic_seg",
        "proposal_boxes": "proposal_boxes",
        "objectness_logits": "objectness_logits",
    }
    for field, name in attributes.items():
        assert hasattr(found, name) == (field in found.outputs)
    assert hasattr(found, "segments_info") == hasattr(found, "panoptic_seg") == (kind == "panoptic")
    if kind == "semantic":
        with pytest.raises(AttributeError, match=r"the model predicts no boxes; got: a model of sem_seg"):
            found.boxes  # noqa: B018


def test_an_output_that_the_model_lacks_is_named_with_those_that_it_has() -> None:
    found = Detections(tiny_image(), {"sem_seg": np.zeros((3, 30, 50))}, tiny_contract(**KINDS["semantic"]))
    for name in ("boxes", "scores", "masks", "class_names", "segments_info"):
        with pytest.raises(MissingOutputError, match=r"the model predicts no .*; got: .*\(sem_seg\)"):
            getattr(found, name)
    assert (len(found), found.height, found.width) == (0, 30, 50)


def test_a_class_without_a_name_has_its_number() -> None:
    outputs = {"scores": np.float32([0.5]), "pred_classes": np.array([7])}
    assert Detections(tiny_image(), outputs, tiny_contract(class_names=())).class_names == ["class 7"]


def test_detections_below_a_score_are_not_drawn(
    detector: detexport.Detector, photo: Path, tmp_path: Path
) -> None:
    detector(photo).save_drawing(tmp_path / "drawn.png", min_score=1.0)
    np.testing.assert_array_equal(Image.open(tmp_path / "drawn.png"), Image.open(photo))


def test_a_console_shows_the_outputs_and_no_arrays(detector: detexport.Detector, photo: Path) -> None:
    found = "Detections(3 in 90 x 60 px: pred_boxes, scores, pred_classes, pred_masks)"
    assert repr(detector(photo)) == found
