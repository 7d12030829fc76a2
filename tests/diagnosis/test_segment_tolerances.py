"""What is a divergence, and what is noise."""

import numpy as np
import pytest

from detexport.diagnosis.segment_tolerances import Measured, limits_of, measure
from detexport.errors import ConfigError
from detexport.modeling.graph_segment import Kind
from tiny_artifacts import tiny_contract

RANDOM = np.random.default_rng(0)
VALUES = RANDOM.standard_normal((1, 16, 20, 30)).astype(np.float32)


def measured(kind: Kind, expected: dict[str, np.ndarray], actual: dict[str, np.ndarray]) -> Measured:
    return measure(kind, expected, actual, (20, 30), tiny_contract(), limits_of(""))


def test_another_order_of_summing_is_noise_and_half_precision_is_not() -> None:
    noisy = VALUES * (1 + RANDOM.uniform(-1e-6, 1e-6, VALUES.shape)).astype(np.float32)
    assert not measured(Kind.VALUES, {"x": VALUES}, {"x": noisy}).why
    halved = VALUES.astype(np.float16).astype(np.float32)
    found = measured(Kind.VALUES, {"x": VALUES}, {"x": halved})
    assert "x: " in found.why
    assert found.errors["relative"] > found.limits["relative"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: np.where(x == x.max(), np.nan, x), "inf"),
        (lambda x: x[:, :, :-1], "(1, 16, 19, 30)"),
        (lambda x: x.astype(np.float64), "float64"),
        (lambda x: x[:, ::-1], "differ"),
    ],
)
def test_a_value_that_is_no_number_another_shape_or_order_diverges(change, word) -> None:  # type: ignore[no-untyped-def]
    assert word in measured(Kind.VALUES, {"x": VALUES}, {"x": change(VALUES)}).why


def test_nan_on_both_sides_and_a_tensor_of_zeros_are_equal() -> None:
    broken = np.where(VALUES > 2, np.nan, VALUES)
    zeros = np.zeros_like(VALUES)
    assert not measured(Kind.VALUES, {"x": broken, "y": zeros}, {"x": broken, "y": zeros}).why
    assert measured(Kind.VALUES, {"y": zeros}, {"y": zeros + np.float32(1e-30)}).why


def test_a_few_values_may_lie_elsewhere_only_where_rounding_chooses() -> None:
    moved = VALUES.copy()
    moved.flat[:50] += 1  # of 9600
    assert measured(Kind.VALUES, {"x": VALUES}, {"x": moved}).why
    assert not measured(Kind.CHOICES, {"x": VALUES}, {"x": moved}).why
    moved.flat[:200] += 1
    assert measured(Kind.CHOICES, {"x": VALUES}, {"x": moved}).why


def test_proposals_are_paired_whatever_their_order_and_a_lost_one_is_told() -> None:
    corners = RANDOM.uniform(0, 500, (300, 2))
    boxes = np.hstack([corners, corners + RANDOM.uniform(20, 60, (300, 2))]).astype(np.float32)
    logits = np.linspace(3, -3, 300, dtype=np.float32)
    logits[10:12] = logits[10]
    expected = {"proposal_boxes": boxes, "objectness_logits": logits}
    swapped = [*range(10), 11, 10, *range(12, 300)]
    assert not measured(Kind.PROPOSALS, expected, {name: x[swapped] for name, x in expected.items()}).why
    lost = measured(
        Kind.PROPOSALS, expected, {name: np.delete(x, range(50, 60), 0) for name, x in expected.items()}
    )
    assert "10 unpaired rows, of 300" in lost.why
    shifted = measured(Kind.PROPOSALS, expected, {**expected, "proposal_boxes": boxes + np.float32(0.5)})
    assert "boxes" in shifted.why


def test_keypoints_are_held_row_by_row() -> None:
    keypoints = RANDOM.uniform(1, 30, (4, 17, 3)).astype(np.float32)
    assert not measured(Kind.KEYPOINTS, {"k": keypoints}, {"k": keypoints}).why
    assert measured(Kind.KEYPOINTS, {"k": keypoints}, {"k": keypoints + np.float32(0.5)}).why
    assert measured(Kind.KEYPOINTS, {"k": keypoints}, {"k": keypoints[:3]}).why


def test_in_bf16_layers_are_rounded_and_lists_are_not() -> None:
    limits = limits_of("bf16")
    rounded = VALUES * (1 + RANDOM.uniform(-0.01, 0.01, VALUES.shape)).astype(np.float32)
    assert not measure(Kind.VALUES, {"x": VALUES}, {"x": rounded}, (20, 30), tiny_contract(), limits).why
    swapped = VALUES[:, [1, 0, *range(2, 16)]]
    assert measure(Kind.VALUES, {"x": VALUES}, {"x": swapped}, (20, 30), tiny_contract(), limits).why
    rows = {
        "pred_boxes": np.array([[2, 3, 12, 13]], np.float32),
        "scores": np.array([0.9], np.float32),
        "pred_classes": np.zeros(1, np.int64),
    }
    moved = {**rows, "pred_boxes": rows["pred_boxes"] + np.float32(0.1)}
    assert measure(Kind.DETECTIONS, rows, moved, (20, 30), tiny_contract(), limits).why
    assert not measure(Kind.OUTPUTS, rows, moved, (20, 30), tiny_contract(), limits).why


def test_a_precision_without_limits_is_refused() -> None:
    with pytest.raises(ConfigError, match="int4"):
        limits_of("int4")
