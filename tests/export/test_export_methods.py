"""Each export method on a small model whose weights see something: equal to eager at every size."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from detexport.artifact import read_artifact
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.resize import resize_image
from detexport.errors import ConfigError, ExportError
from detexport.export import ExportMethod, Provenance
from detexport.modeling import build_model
from detexport.runtime import default_engine
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from detexport.targets.table import artifacts
from makers import maker
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
PROVENANCE = Provenance(weights_sha256="w", config_sha256="c")
RUNTIMES = [("tracing", TorchScript()), ("onnx", OnnxRuntime()), ("onnx_torchscript", OnnxRuntime())]
SAMPLE = np.zeros((3, 64, 64), np.uint8)
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
SIZES = [(96, 128), (64, 64), (131, 97), (33, 250), (160, 224), (16, 16)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The small Mask R-CNN as it was trained."""
    net = build_model(load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")).eval()
    load_weights(net, read_state_dict(ROOT / "checkpoints/mask_rcnn.safetensors"))
    return net


@pytest.fixture(scope="module")
def contract(model: nn.Module) -> Contract:
    return model.contract(CLASSES)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """A validation image with several shapes."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(folder)
    return read_image(folder / "images/val/000001.png", "RGB")


@pytest.fixture(scope="module")
def exported(
    model: nn.Module, contract: Contract, shapes: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Each method once, recorded at a size that the tests do not use again."""
    folder = tmp_path_factory.mktemp("artifacts")
    methods: dict[str, ExportMethod] = {
        "tracing": maker("tracing"),
        "onnx": maker("onnx"),
        "onnx_torchscript": maker("onnx", exporter="torchscript"),
    }
    sample = resize_image(shapes, (112, 144))
    for name, method in methods.items():
        method.export(model, sample, folder / name, contract=contract, provenance=PROVENANCE)
    return {name: folder / name for name in methods}


def eager(model: nn.Module, picture: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        fields = model.detect([torch.from_numpy(picture)])[0]
    return {name: value.numpy() for name, value in fields.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "runtime"), RUNTIMES)
def test_an_artifact_computes_what_the_model_computes_at_every_size(
    model: nn.Module,
    exported: dict[str, Path],
    shapes: np.ndarray,
    name: str,
    runtime: TorchScript | OnnxRuntime,
    size: tuple[int, int],
) -> None:
    picture = resize_image(shapes, size)
    expected = eager(model, picture)
    actual = runtime.open(exported[name])(picture)
    assert len(actual["scores"]) == len(expected["scores"])
    for field in expected:
        np.testing.assert_allclose(actual[field], expected[field], atol=2e-3, err_msg=field)


@pytest.fixture(scope="module")
def for_pytorch(
    model: nn.Module, contract: Contract, shapes: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes the artifact of a target that PyTorch runs, each once."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("pytorch") / name
        method = artifacts()[name].maker.build()
        method.export(model, shapes, folder, contract=contract, provenance=PROVENANCE)
        return folder

    return make


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
@pytest.mark.parametrize("name", ["tracing", "scripting", "torch_export"])
def test_an_artifact_of_pytorch_runs_where_it_is_asked_to_and_gives_arrays_back(
    model: nn.Module,
    for_pytorch: Callable[[str], Path],
    shapes: np.ndarray,
    name: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On CUDA PyTorch rounds what convolutions multiply to 10 bits unless it is told not to.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if name == "scripting" and sys.flags.hash_randomization:
        pytest.skip("scripting needs PYTHONHASHSEED=0")
    folder = for_pytorch(name)
    session = default_engine(read_artifact(folder).format).open(folder, device)
    assert session.device == device
    picture = resize_image(shapes, (131, 97))
    expected, actual = eager(model, picture), session(picture)
    assert len(actual["scores"]) == len(expected["scores"]) > 0
    for field in expected:
        np.testing.assert_allclose(actual[field], expected[field], atol=2e-3, err_msg=field)


def test_the_sizes_see_many_detections_and_few(model: nn.Module, shapes: np.ndarray) -> None:
    counts = [len(eager(model, resize_image(shapes, size))["scores"]) for size in SIZES]
    assert max(counts) > 5
    assert min(counts) < max(counts)


@pytest.mark.parametrize(("name", "runtime"), RUNTIMES)
def test_an_image_without_any_detection_gives_empty_outputs(
    model: nn.Module, exported: dict[str, Path], name: str, runtime: TorchScript | OnnxRuntime
) -> None:
    black = np.zeros((3, 96, 64), np.uint8)
    assert len(eager(model, black)["scores"]) == 0, "this image was chosen to have no detection"
    outputs = runtime.open(exported[name])(black)
    assert outputs["pred_boxes"].shape == (0, 4)
    assert outputs["scores"].shape == (0,)
    assert outputs["pred_masks"].shape == (0, 28, 28)


@pytest.mark.parametrize("name", ["onnx", "onnx_torchscript"])
def test_the_onnx_file_says_nothing_of_this_machine_and_keeps_the_contracts_names(
    exported: dict[str, Path], name: str
) -> None:
    import onnx

    content = (exported[name] / "model.onnx").read_bytes()
    assert str(ROOT).encode() not in content
    assert b".py" not in content
    graph = onnx.load_from_string(content).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {
        "image": [3, "H", "W"],
        "pred_boxes": ["R", 4],
        "scores": ["R"],
        "pred_classes": ["R"],
        "pred_masks": ["R", 28, 28],
    }


def test_no_torchscript_file_holds_a_source_path_or_a_device(exported: dict[str, Path]) -> None:
    content = (exported["tracing"] / "model.pt").read_bytes()
    assert str(ROOT).encode() not in content
    assert b".debug_pkl" not in content
    assert b'torch.device("' not in content


def test_the_manifest_records_the_method_and_its_options(exported: dict[str, Path]) -> None:
    artifact = read_artifact(exported["onnx"])
    assert (artifact.method, artifact.batch, artifact.graph_end) == ("onnx", "1", "raw")
    assert artifact.options == {"opset_version": 20, "exporter": "dynamo", "graph_end": "raw"}
    assert artifact.weights_sha256 == "w"


@pytest.mark.parametrize(
    "method", [maker("tracing"), maker("scripting"), maker("onnx"), maker("onnx", exporter="torchscript")]
)
def test_a_model_in_training_mode_is_refused_and_nothing_is_written(
    model: nn.Module, contract: Contract, tmp_path: Path, method: ExportMethod
) -> None:
    model.train()
    try:
        with pytest.raises(ExportError, match="training mode"):
            method.export(model, SAMPLE, tmp_path / "a", contract=contract, provenance=PROVENANCE)
    finally:
        model.eval()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 9},
        {"opset_version": 17},
        {"opset_version": 999},
        {"exporter": "torchscript", "opset_version": 21},
        {"exporter": "onnx"},
    ],
    ids=str,
)
def test_what_no_exporter_can_write_is_refused(
    model: nn.Module, contract: Contract, tmp_path: Path, options: dict[str, Any]
) -> None:
    option = list(options)[-1]
    remedy = rf"remedy: set --opt {option}=\w+; in the pipeline artifacts\.<name>\.method\.{option}=\w+"
    with pytest.raises(ConfigError, match=f"{option}.*{remedy}"):
        maker("onnx", **options).export(
            model, SAMPLE, tmp_path / "a", contract=contract, provenance=PROVENANCE
        )
    assert not (tmp_path / "a").exists()


def test_scripting_in_a_process_with_random_hashes_is_refused() -> None:
    code = "from detexport.export.torchscript_file import require_fixed_hashes; require_fixed_hashes()"
    for seed, code_expected in (("random", 1), ("0", 0)):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code_expected, done.stderr
        assert ("expected: PYTHONHASHSEED=0" in done.stderr) is bool(code_expected)


@pytest.mark.parametrize("method", ["onnx", "onnx_torchscript"])
def test_the_onnx_file_alone_names_its_classes_and_its_preprocessing(
    exported: dict[str, Path], contract: Contract, method: str
) -> None:
    # As ONNX Runtime reads it, without the manifest.
    path = exported[method] / read_artifact(exported[method]).main_file
    properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(properties["class_names"]) == list(CLASSES)
    assert json.loads(properties["resize"]) == asdict(contract.resize)
    assert properties["channel_order"] == contract.channel_order
    assert properties.keys() == {"channel_order", "class_names", "resize"}
