"""The engine behind a runtime's class."""

import pytest

from detexport.results.runtime_names import engine_name
from detexport.runtime import DEFAULT_ENGINES

KNOWN = {("PyTorch", "torch"), ("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")}


@pytest.mark.parametrize("path", DEFAULT_ENGINES.values())
def test_the_runtime_of_each_format_has_a_name(path: str) -> None:
    assert engine_name(path) in KNOWN


def test_an_unknown_runtime_stands_for_itself() -> None:
    assert engine_name("mine.engines.Fast") == ("mine.engines.Fast", "")
