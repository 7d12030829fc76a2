"""Conversion to the model's dtype: finite values are rounded, others refused."""

import pytest
import torch

from detexport.checkpoint.cast import convert


@pytest.mark.parametrize(
    "dtype",
    ["float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"],
)
def test_floating_point_numbers_are_converted(dtype: str) -> None:
    values = torch.tensor([0.5, -2.0, 0.0])
    converted, problem = convert(values.to(getattr(torch, dtype)), "float32")
    assert problem == ""
    assert converted.dtype == torch.float32
    assert torch.equal(converted, values)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.tensor([1.0, float("nan"), float("inf")]), "has 2 values of 3 that are NaN or infinite"),
        (torch.tensor([1.0, -float("inf")]), "has 1 values of 2 that are NaN or infinite"),
        (
            torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn),
            "has 1 values of 2 that are NaN or infinite",
        ),
        (torch.tensor([1e300, 1.0], dtype=torch.float64), "has 1 values of 2 out of the range of float32"),
        (torch.ones(2, dtype=torch.complex64), "is complex64, expected float32"),
        (torch.ones(2, dtype=torch.bool), "is bool, expected float32"),
        (torch.ones(2, dtype=torch.int8), "is int8, expected float32"),
    ],
)
def test_unusable_values_are_reported(tensor: torch.Tensor, problem: str) -> None:
    assert convert(tensor, "float32")[1] == problem


def test_integers_keep_their_values() -> None:
    converted, problem = convert(torch.tensor([1, -2], dtype=torch.int32), "int64")
    assert (converted.dtype, converted.tolist(), problem) == (torch.int64, [1, -2], "")
    assert convert(torch.tensor([300]), "int8")[1] == "has values out of the range of int8"
    assert convert(torch.tensor([1.0]), "int64")[1] == "is float32, expected int64"
    assert (
        convert(torch.tensor([1e30], dtype=torch.float32), "float16")[1]
        == "has 1 values of 1 out of the range of float16"
    )
    assert convert(torch.zeros(0), "float16")[1] == ""
