"""What must not be rounded to bfloat16: places, on maps of features as in the frame of the output."""

from pathlib import Path

import numpy as np
import pytest

from detexport.errors import RuntimeUnavailableError
from detexport.export import Provenance
from detexport.runtime.openvino import OpenVinoRuntime, OpenVinoSession
from makers import maker
from tiny_artifacts import tiny_contract, tiny_image
from tiny_models import TinyModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that pastes its masks."""
    folder, contract = tmp_path_factory.mktemp("bf16"), tiny_contract()
    maker("onnx", graph_end="pasted").export(
        TinyModel(contract),
        tiny_image(48, 40),
        folder / "onnx",
        contract=contract,
        provenance=Provenance("w", "c"),
    )
    maker("openvino").convert(folder / "onnx", [], folder / "openvino")
    return folder / "openvino"


@pytest.fixture(scope="module")
def rounded(folder: Path) -> OpenVinoSession:
    try:
        return OpenVinoRuntime(threads=1, precision="bf16").open(folder)
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [(48, 40), (300, 257), (800, 1333)])
def test_masks_are_pasted_where_they_belong(
    folder: Path, rounded: OpenVinoSession, size: tuple[int, int]
) -> None:
    """Counted in bfloat16, pixels end at 256."""
    image = tiny_image(48, 40)
    expected, found = OpenVinoRuntime(threads=1).open(folder)(image, size), rounded(image, size)
    np.testing.assert_allclose(found["pred_boxes"], expected["pred_boxes"], rtol=1e-5)
    areas = expected["pred_masks"].sum((1, 2))
    differing = (expected["pred_masks"] != found["pred_masks"]).sum((1, 2))
    assert (areas > 0).all()
    assert (differing <= np.maximum(9, 0.03 * areas)).all(), (differing, areas)
