"""Errors beyond their limits in words: how many, the worst, its limit."""

import numpy as np
import pytest

from detexport.parity.compare.field_comparison import absolute_errors, beyond, largest


def test_differences_of_float32_values_neither_overflow_nor_lose_bits() -> None:
    first, second = np.float32([3e38, 1, 16777216]), np.float32([-3e38, 3, 16777215])
    errors = absolute_errors(first, second)
    assert errors.dtype == np.float64
    assert errors.tolist() == [pytest.approx(6e38), 2, 1]


def test_differences_of_integers_do_not_wrap() -> None:
    assert absolute_errors(np.uint8([0, 255]), np.uint8([255, 254])).tolist() == [255, 1]


def test_the_largest_of_no_errors_is_0() -> None:
    assert largest(np.zeros((0, 4))) == 0
    assert largest(np.array([[0.5, 2.0], [1.0, 0.0]])) == 2


def test_errors_within_their_limits_are_not_described() -> None:
    limits = np.array([1.0, 2.0])
    assert beyond("boxes", "px", np.array([1.0, 2.0]), limits) == ()
    assert beyond("boxes", "px", np.zeros(0), np.zeros(0)) == ()


def test_the_worst_is_the_largest_error_beyond_its_own_limit() -> None:
    """The largest of all is within its limit."""
    errors, limits = np.array([9.0, 0.5, 3.0, 0.1]), np.array([10.0, 0.25, 1.0, 1.0])
    assert beyond("boxes", "px", errors, limits) == (
        "boxes: 2 of 4 pairs beyond the tolerance, worst 3 px (limit 1)",
    )


def test_arrays_of_any_shape_are_counted_by_value() -> None:
    errors = np.array([[0.0, 0.5], [0.123456, 0.0]])
    assert beyond("keypoints", "px", errors, np.full((2, 2), 0.1), "keypoints") == (
        "keypoints: 2 of 4 keypoints beyond the tolerance, worst 0.5 px (limit 0.1)",
    )


def test_a_number_without_a_unit_leaves_no_gap() -> None:
    assert beyond("scores", "", np.array([0.25]), np.array([0.0002])) == (
        "scores: 1 of 1 pairs beyond the tolerance, worst 0.25 (limit 0.0002)",
    )
