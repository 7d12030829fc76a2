"""Constants in OpenVINO's graphs."""

from typing import Any

DERIVED = ("Convert", "FakeQuantize", "Multiply", "Reshape", "Subtract")
"""Operators through which a constant is stored in another shape, type or precision."""


def is_constant(node: Any) -> bool:
    """Return whether the value of a node is stored, perhaps reshaped or of another type."""
    if node.get_type_name() == "Constant":
        return True
    return node.get_type_name() in DERIVED and all(
        is_constant(value.get_node()) for value in node.input_values()
    )
