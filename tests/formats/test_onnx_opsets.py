"""The range of opsets that the exporters write: the limits are those of the installed packages."""

import sys

import onnx
import pytest

from detexport.formats.onnx_opsets import LATEST_TORCHSCRIPT, OLDEST, latest_written


def test_the_torchscript_exporter_writes_what_torch_says() -> None:
    import torch.onnx._constants as limits

    assert limits.ONNX_TORCHSCRIPT_EXPORTER_MAX_OPSET == LATEST_TORCHSCRIPT


def test_the_newer_exporter_writes_what_onnx_has() -> None:
    assert latest_written("dynamo") == onnx.defs.onnx_opset_version() > LATEST_TORCHSCRIPT


def test_the_older_exporters_limit_is_known_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert latest_written("torchscript") == LATEST_TORCHSCRIPT
    with pytest.raises(ImportError):
        latest_written("dynamo")


def test_the_oldest_opset_is_the_first_that_has_the_operators() -> None:
    def inputs_of_reduce_max(opset: int) -> list[str]:
        return [one.name for one in onnx.defs.get_schema("ReduceMax", opset).inputs]

    assert inputs_of_reduce_max(OLDEST) == ["data", "axes"]
    assert inputs_of_reduce_max(OLDEST - 1) == ["data"]
    assert "coordinate_transformation_mode" in onnx.defs.get_schema("RoiAlign", OLDEST).attributes
