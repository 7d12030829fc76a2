from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import Running, running


@pytest.fixture(scope="module")
def server(tiny_onnx: Path) -> Iterator[Running]:
    with running(tiny_onnx, "--max-images", "4", "--max-body-mb", "1", "--timeout", "1.5") as server:
        yield server
