import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from makers import maker
from tiny_artifacts import no_samples, tiny_image, write_tiny_onnx, write_tiny_torchscript


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first: processes that share the files then end together."""
    items.sort(key=lambda item: item.path.name != "test_dag.py")


@pytest.fixture(scope="module", autouse=True)
def _own_registry() -> Iterator[None]:
    """Undo what MLflow leaves in the environment and in its module when a test sets the tracking URI."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(before or "")
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """Undo what ``setup_logger`` configures in the process."""
    loggers = [logging.getLogger(name) for name in ("detexport", "detectron2")]
    before = [(logger, logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "onnx"
    write_tiny_onnx(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_openvino(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "openvino"
    maker("openvino").convert(tiny_onnx, no_samples(), folder)
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


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """(H, W, 3) RGB."""
    from photos import SIZE

    return np.ascontiguousarray(tiny_image(*SIZE).transpose(1, 2, 0))


@pytest.fixture(scope="session")
def photo(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def detector(tiny_onnx: Path) -> Any:
    """The tiny ONNX artifact, as `detexport.load` returns it."""
    import detexport

    return detexport.load(tiny_onnx)
