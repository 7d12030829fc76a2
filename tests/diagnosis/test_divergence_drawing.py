"""A picture shows where the first segment that differs does."""

from pathlib import Path

import numpy as np
from PIL import Image

from detexport.diagnosis.diagnose import Divergence
from detexport.diagnosis.drawing import HEAT, heat_map, save_evidence
from detexport.modeling.graph_segment import Kind
from detexport.predictions.drawing import PALETTE

IMAGE = np.full((3, 60, 80), 128, np.uint8)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_brightest_cell_of_a_feature_map_is_where_it_differs_most() -> None:
    error = np.zeros((1, 8, 4, 6))
    error[0, 5, 2, 3] = 2.0
    error[0, 1, 0, 0] = 1.0
    picture = heat_map(error)
    assert picture.dtype == np.uint8
    cell = picture.shape[1] // 4
    assert picture.shape == (3, 4 * cell, 6 * cell)
    brightness = picture.sum(0, dtype=int)[cell // 2 :: cell, cell // 2 :: cell]
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (2, 3)
    assert (picture[:, 2 * cell, 3 * cell] == HEAT[-1]).all()
    assert brightness[0, 0] > brightness[1, 1] == 0


def test_rows_have_a_line_each_and_nothing_is_black() -> None:
    error = np.zeros((3, 2, 2, 2))
    error[1] = 1
    picture = heat_map(error)
    line = picture.shape[1] // 3
    assert picture[:, :line].sum() == 0
    assert picture[:, line : 2 * line].min() > 0
    assert heat_map(np.zeros((0, 4))).max() == 0


def test_boxes_of_both_sides_are_drawn_in_colours_of_their_own(tmp_path: Path) -> None:
    sides = [
        {
            "proposal_boxes": np.array([[x, 5, x + 20, 30]], np.float32),
            "objectness_logits": np.ones(1, np.float32),
        }
        for x in (5, 50)
    ]
    save_evidence(tmp_path / "boxes.png", Divergence(Kind.PROPOSALS, IMAGE, *sides), "RGB")
    drawn = pixels(tmp_path / "boxes.png")
    assert drawn.shape == (60, 80, 3)
    for x, colour in ((5, PALETTE[1][0]), (50, PALETTE[5][0])):
        assert drawn[15, x].tolist() == list(bytes.fromhex(colour[1:]))


def test_a_tensor_of_another_shape_differs_everywhere(tmp_path: Path) -> None:
    expected = {"p3": np.ones((1, 4, 8, 8), np.float32), "p2": np.ones((1, 4, 16, 16), np.float32)}
    actual = {"p3": np.ones((1, 4, 8, 9), np.float32), "p2": expected["p2"]}
    save_evidence(tmp_path / "map.png", Divergence(Kind.VALUES, IMAGE, expected, actual), "RGB")
    drawn = pixels(tmp_path / "map.png")
    assert (drawn[: len(drawn) // 2] == HEAT[-1]).all()
