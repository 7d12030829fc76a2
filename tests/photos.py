"""A photo for the one-line API, and what it means that two detections are the same."""

import numpy as np

from detexport.predictions.detections import Detections

SIZE = (60, 90)  # the tiny artifact's rule resizes it to 40 x 60
FIELDS = ("boxes", "scores", "classes", "masks")


def assert_same(one: Detections, other: Detections) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.class_names == other.class_names
