"""A value that is stored in a graph, whatever its precision, and one that is computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset15

from detexport.formats.openvino_constants import is_constant


def stored(dtype: Any = np.float32) -> Any:
    return opset15.constant(np.ones((2, 3), dtype))


def given() -> Any:
    return opset15.parameter(ov.Shape((2, 3)), dtype=np.float32)


def quantized(value: Any) -> Any:
    low, high = opset15.constant(np.float32(-1)), opset15.constant(np.float32(1))
    return opset15.fake_quantize(value, low, high, low, high, 255)


# What a value becomes when it is stored as float16 or int8.
STORED_AS: dict[str, Callable[[Any], Any]] = {
    "another type": lambda value: opset15.convert(value, "f16"),
    "another shape": lambda value: opset15.reshape(value, opset15.constant(np.array([6])), False),
    "scaled": lambda value: opset15.multiply(value, opset15.constant(np.float32(0.5))),
    "shifted": lambda value: opset15.subtract(value, opset15.constant(np.float32(8))),
    "quantized": quantized,
}


def test_a_constant_is_and_an_input_is_not() -> None:
    assert is_constant(stored())
    assert not is_constant(given())


@pytest.mark.parametrize("kind", STORED_AS)
def test_a_constant_stays_one_in_another_form(kind: str) -> None:
    assert is_constant(STORED_AS[kind](stored()))
    assert not is_constant(STORED_AS[kind](given()))


def test_int8_weights_are_constant_through_all_their_operators() -> None:
    """As NNCF stores them: converted, shifted, scaled and reshaped."""
    value = opset15.convert(stored(np.int8), "f32")
    for kind in ("shifted", "scaled", "another shape"):
        value = STORED_AS[kind](value)
    assert is_constant(value)


def test_a_product_with_an_input_is_computed() -> None:
    assert not is_constant(opset15.multiply(stored(), given()))
    assert not is_constant(opset15.multiply(given(), stored()))


def test_another_operator_computes_its_value() -> None:
    """A graph that folds its constants has none; an unfolded one is not taken for stored."""
    assert not is_constant(opset15.relu(stored()))
