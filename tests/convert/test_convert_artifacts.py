"""Conversions: what they compute, that they are the same to the byte, and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nncf
import numpy as np
import onnx
import pytest
from PIL import Image

from detexport.artifact import Format, read_artifact
from detexport.contract import ResizeRule
from detexport.convert.conversion import Conversion
from detexport.data.image_samples import ImageSamples
from detexport.errors import ConfigError, ExportError
from detexport.export import Provenance
from detexport.runtime import default_engine
from makers import maker
from tiny_artifacts import no_samples, tiny_contract, tiny_image, write_tiny_layers
from tiny_models import LayeredModel

SIZES = [(30, 50), (77, 41), (16, 16)]
INT8 = {"onnx_int8": "onnx", "openvino_int8": "openvino"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> ImageSamples:
    folder = tmp_path_factory.mktemp("images")
    for index, size in enumerate(SIZES):
        Image.fromarray(tiny_image(*size).transpose(1, 2, 0)).save(folder / f"{index}.png")
    return ImageSamples(sorted(folder.iterdir()), "RGB", ResizeRule(0, 0))


@pytest.fixture(scope="module")
def folders(samples: ImageSamples, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The layers in every format, by the name of the artifact."""
    root = tmp_path_factory.mktemp("layers")
    write_tiny_layers(root / "onnx")
    maker("openvino").convert(root / "onnx", samples, root / "openvino")
    for name, source in INT8.items():
        maker(name, samples=2).convert(root / source, samples, root / name)
    return {name: root / name for name in ("onnx", "openvino", *INT8)}


def run(folder: Path, size: tuple[int, int]) -> np.ndarray:
    return default_engine(read_artifact(folder).format).open(folder)(tiny_image(*size))["sem_seg"]


@pytest.mark.parametrize("size", SIZES)
def test_an_ir_computes_what_its_onnx_does_at_every_size(
    folders: dict[str, Path], size: tuple[int, int]
) -> None:
    np.testing.assert_allclose(run(folders["openvino"], size), run(folders["onnx"], size), atol=1e-5)


@pytest.mark.parametrize("name", INT8)
@pytest.mark.parametrize("size", SIZES)
def test_eight_bits_are_near_and_not_the_same(
    folders: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    expected = run(folders["onnx"], size)
    error = np.abs(run(folders[name], size) - expected)
    assert 0 < error.max() < 0.05 * np.abs(expected).max()


def test_the_layer_that_predicts_stays_in_float(folders: dict[str, Path]) -> None:
    graph = onnx.load(folders["onnx_int8"] / "model.onnx").graph
    producer = {name: node.op_type for node in graph.node for name in node.output}
    weights = {
        node.name: producer.get(node.input[1], "stored") for node in graph.node if node.op_type == "Conv"
    }
    assert weights == {"conv0": "DequantizeLinear", "conv1": "DequantizeLinear", "predictor": "stored"}
    layers = ElementTree.parse(folders["openvino_int8"] / "model.xml").iter("layer")
    types = [layer.get("type") for layer in layers]
    assert types.count("Convolution") == 3
    assert types.count("FakeQuantize") == 2


def test_the_manifest_names_the_source(folders: dict[str, Path]) -> None:
    artifact = read_artifact(folders["openvino_int8"])
    assert artifact.format is Format.OPENVINO
    assert artifact.source_sha256 == read_artifact(folders["openvino"]).sha256
    assert artifact.contract == read_artifact(folders["onnx"]).contract


@pytest.mark.parametrize(
    ("source", "conversion"),
    [
        ("onnx", maker("openvino")),
        ("onnx", maker("onnx_int8", samples=2)),
        ("openvino", maker("openvino_int8", samples=2)),
    ],
)
def test_a_conversion_is_the_same_to_the_byte(
    folders: dict[str, Path], samples: ImageSamples, tmp_path: Path, source: str, conversion: Conversion
) -> None:
    again = conversion.convert(folders[source], samples, tmp_path / "elsewhere" / "again")
    first = read_artifact(folders[again.method])
    assert again.files == first.files
    assert again.sha256 == first.sha256
    for name in again.files:
        assert str(tmp_path).encode() not in (tmp_path / "elsewhere/again" / name).read_bytes()


@pytest.mark.parametrize("name", INT8)
def test_nothing_to_calibrate_on_is_an_error_and_leaves_nothing(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    source = INT8[name]
    with pytest.raises(ExportError, match="there are no calibration images"):
        maker(name).convert(folders[source], no_samples(), tmp_path / "a")
    with pytest.raises(ConfigError, match="quantization needs samples"):
        maker(name, samples=0).convert(folders[source], no_samples(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "conversion", "got"),
    [
        ("onnx", maker("onnx_int8", float_nodes=("conv0", "conv7")), "float_nodes: conv7"),
        ("openvino", maker("openvino_int8", preset="foo"), "got: foo"),  # type: ignore[arg-type]
        ("openvino", maker("openvino_int8", float_patterns=("conv7",)), "float_patterns: conv7"),
        ("openvino", maker("openvino_int8", float_patterns=("conv[",)), r"float_patterns: conv\["),
    ],
)
def test_an_option_that_names_nothing_is_refused_before_any_image_is_read(
    folders: dict[str, Path], tmp_path: Path, source: str, conversion: Conversion, got: str
) -> None:
    unreadable = ImageSamples([tmp_path / "none.png"], "RGB", ResizeRule(0, 0))
    with pytest.raises(ConfigError, match=got):
        conversion.convert(folders[source], unreadable, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_error_of_nncf_is_told_as_ours(
    folders: dict[str, Path], samples: ImageSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quantize(*_: Any, **__: Any) -> None:
        raise nncf.UnsupportedModelError("of no known\nkind")

    monkeypatch.setattr(nncf, "quantize", quantize)
    with pytest.raises(ExportError, match="UnsupportedModelError: of no known kind"):
        maker("openvino_int8", samples=1).convert(folders["openvino"], samples, tmp_path / "a")


@pytest.fixture(scope="module")
def pasted(samples: ImageSamples, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A detector with layers to quantize, whose graph takes the wanted size too."""
    root = tmp_path_factory.mktemp("pasted")
    method = maker("onnx", exporter="torchscript", graph_end="pasted")
    method.export(
        LayeredModel(tiny_contract()),
        tiny_image(),
        root / "onnx",
        contract=tiny_contract(),
        provenance=Provenance("w", "c"),
    )
    maker("openvino").convert(root / "onnx", samples, root / "openvino")
    return {name: root / name for name in ("onnx", "openvino")}


@pytest.mark.parametrize("name", INT8)
def test_a_graph_that_takes_the_wanted_size_is_quantized(
    pasted: dict[str, Path], samples: ImageSamples, tmp_path: Path, name: str
) -> None:
    source = INT8[name]
    artifact = maker(name, samples=2).convert(pasted[source], samples, tmp_path / "int8")
    assert artifact.graph_end == "pasted"
    engine = default_engine(artifact.format)
    expected, found = (
        engine.open(folder)(tiny_image(30, 50), (60, 90)) for folder in (pasted[source], tmp_path / "int8")
    )
    assert found["pred_masks"].shape == expected["pred_masks"].shape == (3, 60, 90)
    np.testing.assert_allclose(found["pred_boxes"], expected["pred_boxes"], atol=1e-3)
    error = np.abs(found["scores"] - expected["scores"]).max()
    assert 0 < error < 0.02


@pytest.mark.parametrize("conversion", [maker("openvino"), maker("onnx_int8")])
def test_another_format_is_refused(
    folders: dict[str, Path], samples: ImageSamples, tmp_path: Path, conversion: Conversion
) -> None:
    with pytest.raises(ExportError, match="cannot be converted"):
        conversion.convert(folders["openvino"], samples, tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("onnx_int8", ["torch", "openvino"]),
        ("openvino", ["torch", "openvino_telemetry"]),
        # NNCF itself imports torch where that is installed.
        ("openvino_int8", ["openvino_telemetry"]),
    ],
)
def test_a_conversion_imports_its_own_engine_and_reports_to_nobody(
    name: str, absent: list[str], tmp_path: Path
) -> None:
    code = f"import sys, detexport.convert.{name}\nprint([name for name in {absent} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.stdout.strip() == "[]"
    assert not (tmp_path / "intel").exists()
