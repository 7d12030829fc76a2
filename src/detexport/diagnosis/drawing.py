"""Draw the difference of the first segment that differs."""

from pathlib import Path

import numpy as np

from detexport.diagnosis.diagnose import Divergence
from detexport.diagnosis.segment_chain import PASTED
from detexport.parity.compare.field_comparison import absolute_errors
from detexport.predictions.drawing import PALETTE, Label, Overlay, save_drawing

SIDE_PX = 512
"""Approximate size of a heat map in px: cells are repeated up to it."""
MOST_BOXES = 100
HEAT = np.array([[0, 0, 0], [87, 15, 109], [187, 55, 84], [249, 142, 8], [252, 255, 164]], np.float64)
"""Colors from no difference (dark) to the largest (bright), readable in grey, too."""
EAGER, ARTIFACT = PALETTE[1], PALETTE[5]


def save_evidence(path: Path, evidence: Divergence, channel_order: str) -> None:
    """Draw boxes of both sides over the image, or a heat map of the tensor that differs most.

    Args:
        path: the file, PNG.
        evidence: evidence of a diagnosis.
        channel_order: channel order of its image.
    """
    expected, actual = (
        {name.removeprefix(PASTED): value for name, value in side.items()}
        for side in (evidence.expected, evidence.actual)
    )
    boxes = next((name for name in ("pred_boxes", "proposal_boxes") if name in expected), "")
    if boxes:
        labels = (*_labels(expected[boxes], EAGER), *_labels(actual.get(boxes, np.zeros((0, 4))), ARTIFACT))
        legend = (("the model", *EAGER), ("the artifact's segment", *ARTIFACT))
        save_drawing(path, evidence.image, channel_order, Overlay("", labels, legend=legend))
        return
    name, error, scale = _worst(expected, actual)
    largest = float(error.max(initial=0))
    text = f"{name}: up to {largest:.3g}, {largest / scale:.2g} of the largest" if scale else name
    save_drawing(path, heat_map(error), "RGB", Overlay("", (), legend=((text, "#fff", "#000"),)))


def _labels(boxes: np.ndarray, colours: tuple[str, str]) -> list[Label]:
    return [
        Label(x0, y0, x1 - x0, y1 - y0, "", 0, 0, 0, *colours)
        for x0, y0, x1, y1 in boxes[:MOST_BOXES].tolist()
        if x1 >= x0 and y1 >= y0
    ]


def _worst(expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> tuple[str, np.ndarray, float]:
    """Return the tensor with the largest relative error: its name, its errors, its largest value.

    A tensor of another shape differs in every value.
    """
    candidates = []
    for name, want in expected.items():
        got = actual.get(name)
        scale = float(np.abs(np.nan_to_num(want)).max(initial=0))
        error = np.full(want.shape, scale)
        if got is not None and got.shape == want.shape:
            error = np.nan_to_num(absolute_errors(want, got), nan=scale)
        candidates.append((name, error, scale))
    return max(candidates, key=lambda one: float(one[1].max(initial=0)) / (one[2] or 1))


def heat_map(error: np.ndarray) -> np.ndarray:
    """Return a heat map (3, H, W) uint8 RGB of errors of any shape; brighter is larger.

    A feature map (1, C, H, W) is reduced to the largest error over channels; rows (R, ...) are a line each.
    """
    is_map = error.ndim == 4 and len(error) == 1
    flat = error[0].max(0) if is_map else error.reshape(len(error), -1 if error.size else 0)
    flat = flat if flat.size else np.zeros((1, 1))
    largest = flat.max()
    position = (flat / largest if largest else flat) * (len(HEAT) - 1)
    channels = [np.interp(position, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    pixels = np.round(np.stack(channels)).astype(np.uint8)
    factors = [max(1, SIDE_PX // max(side, 1)) for side in pixels.shape[1:]]
    # Cells of a map stay square; a line of a row need not.
    rows, columns = (min(factors),) * 2 if is_map else factors
    return pixels.repeat(rows, axis=1).repeat(columns, axis=2)
