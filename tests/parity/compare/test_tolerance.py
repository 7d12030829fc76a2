"""The limits: which are refused, how they grow with the image and with the model's own noise."""

from dataclasses import asdict, fields, replace

import pytest

from detexport.errors import ConfigError
from detexport.parity.compare import Tolerance
from detexport.parity.compare.tolerance import LARGEST_RATIO, RATIOS
from tolerances import LIMITS, TOLERANCE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("box_px", float("nan")),
        ("score", float("inf")),
        ("mask_px", -1),
        ("panoptic_ratio", 1),
        ("pair_iou", 0),
        ("pair_iou", 1.5),
    ],
)
def test_a_limit_that_no_error_exceeds_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Tolerance(**{**LIMITS, field: value})


def test_every_limit_that_does_not_fit_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"got: box_px=-1, score=nan; .*remedy: correct parity\.tolerance"):
        replace(TOLERANCE, box_px=-1, score=float("nan"))


def test_limits_of_0_and_ratios_below_1_are_accepted() -> None:
    zeros = Tolerance(**{name: 0.0 for name in LIMITS if name != "pair_iou"}, pair_iou=1.0)
    assert zeros.score == 0
    assert replace(TOLERANCE, mask_area_ratio=LARGEST_RATIO).mask_area_ratio == LARGEST_RATIO


@pytest.mark.parametrize(("scale", "limit"), [(1.0, 0.01), (4.0, 0.04), (0.1, 0.01), (0.0, 0.01)])
def test_the_limit_of_boxes_grows_with_the_output_and_has_a_floor(scale: float, limit: float) -> None:
    assert TOLERANCE.limit("box_px", scale) == pytest.approx(limit)


def test_a_limit_is_widened_to_what_is_needed_and_never_narrowed() -> None:
    widened = TOLERANCE.widened({"score": 1e-3, "box_px": 1e-6, "keypoint_px": 5.0})
    changed = {name for name, limit in asdict(widened).items() if limit != getattr(TOLERANCE, name)}
    assert changed == {"score", "keypoint_px"}
    assert (widened.score, widened.keypoint_px) == (1e-3, 5.0)
    assert TOLERANCE.widened({}) == TOLERANCE


@pytest.mark.parametrize("name", RATIOS)
def test_a_ratio_is_widened_below_1(name: str) -> None:
    assert getattr(TOLERANCE.widened({name: 40.0}), name) == LARGEST_RATIO


@pytest.mark.parametrize(
    ("needs", "px", "ratio"),
    [
        ({"mask_px": 18.0, "mask_area_ratio": 0.05}, 18.0, 0.005),
        ({"mask_px": 180.0, "mask_area_ratio": 0.01}, 9.0, 0.01),
        ({"mask_px": 5.0, "mask_area_ratio": 0.05}, 9.0, 0.005),  # half of a tiny mask
        ({"mask_px": 20.0, "mask_area_ratio": 0.002}, 9.0, 0.005),  # many pixels, but of a large mask
        ({"mask_px": 18.0}, 18.0, 0.005),
        ({"mask_area_ratio": 0.01}, 9.0, 0.01),
    ],
)
def test_of_a_masks_limits_the_one_that_grows_less_is_widened(
    needs: dict[str, float], px: float, ratio: float
) -> None:
    widened = replace(TOLERANCE, mask_px=9.0, mask_area_ratio=0.005).widened(needs)
    assert (widened.mask_px, widened.mask_area_ratio) == (px, ratio)


def test_a_limit_of_0_grows_without_end() -> None:
    assert replace(TOLERANCE, mask_px=9.0).growth("mask_px", 18.0) == 2
    assert replace(TOLERANCE, mask_px=0.0).growth("mask_px", 1.0) == float("inf")
    widened = replace(TOLERANCE, mask_px=0.0, mask_area_ratio=0.005).widened(
        {"mask_px": 1.0, "mask_area_ratio": 0.5}
    )
    assert (widened.mask_px, widened.mask_area_ratio) == (0.0, 0.5)


def test_conf_has_every_limit() -> None:
    assert LIMITS.keys() == {one.name for one in fields(Tolerance)}
