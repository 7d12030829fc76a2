from pathlib import Path

import pytest

from tiny_artifacts import write_tiny_onnx, write_tiny_torchscript


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "onnx"
    write_tiny_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scripting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "scripting"
    write_tiny_torchscript(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tracing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "tracing"
    write_tiny_torchscript(folder, method="tracing")
    return folder
