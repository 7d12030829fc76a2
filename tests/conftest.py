from pathlib import Path

import pytest

from tiny_artifacts import no_samples, write_tiny_onnx, write_tiny_torchscript


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first: processes that share the files then end together."""
    items.sort(key=lambda item: item.path.name != "test_dag.py")


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "onnx"
    write_tiny_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_openvino(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from detexport.convert.openvino import OpenVino

    folder = tmp_path_factory.mktemp("tiny") / "openvino"
    OpenVino().convert(tiny_onnx, no_samples(), folder)
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
