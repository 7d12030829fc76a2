"""Each export method on a small model whose weights see something: equal to eager at every size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detexport.artifact import read_artifact
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.errors import ExportError
from detexport.export import ExportMethod, Provenance
from detexport.export.onnx import Onnx
from detexport.export.scripting import Scripting
from detexport.export.tracing import Tracing
from detexport.modeling import build_model
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript

ROOT = Path(__file__).parents[2]
CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
PROVENANCE = Provenance(weights_sha256="w", config_sha256="c")
SIZES = [(96, 128), (64, 64), (131, 97), (33, 250), (160, 224), (16, 16)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The small Mask R-CNN with random weights, scaled so that scores and boxes differ clearly."""
    torch.manual_seed(1)
    cfg = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.3
    net = build_model(cfg).eval()
    with torch.no_grad():
        net.roi_heads.box_predictor.cls_score.weight.mul_(60)
        net.roi_heads.mask_head.predictor.weight.mul_(200)
        net.proposal_generator.rpn_head.objectness_logits.weight.mul_(20)
    return net


@pytest.fixture(scope="module")
def contract(model: nn.Module) -> Contract:
    return model.contract(CLASSES)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with structure at several scales."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (3, 6, 6))
    rows = np.arange(height) * 6 // height
    columns = np.arange(width) * 6 // width
    noise = generator.integers(-20, 20, (3, height, width))
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(
    model: nn.Module, contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Every method once; scripting's file is only asked to run, so its order of constants does not matter."""
    folder = tmp_path_factory.mktemp("artifacts")
    methods: dict[str, ExportMethod] = {"tracing": Tracing(), "onnx": Onnx()}
    for name, method in methods.items():
        method.export(model, image(96, 128), folder / name, contract=contract, provenance=PROVENANCE)
    return {name: folder / name for name in methods}


def eager(model: nn.Module, picture: np.ndarray) -> dict[str, np.ndarray]:
    with torch.no_grad():
        fields = model.detect([torch.from_numpy(picture)])[0]
    return {name: value.numpy() for name, value in fields.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "runtime"), [("tracing", TorchScript()), ("onnx", OnnxRuntime())])
def test_an_artifact_computes_what_the_model_computes_at_every_size(
    model: nn.Module,
    exported: dict[str, Path],
    name: str,
    runtime: TorchScript | OnnxRuntime,
    size: tuple[int, int],
) -> None:
    picture = image(*size, seed=sum(size))
    expected = eager(model, picture)
    actual = runtime.open(exported[name])(picture)
    assert len(actual["scores"]) == len(expected["scores"])
    for field in expected:
        np.testing.assert_allclose(actual[field], expected[field], atol=2e-3, err_msg=field)


def test_the_sizes_cover_images_with_and_without_detections(model: nn.Module) -> None:
    counts = [len(eager(model, image(*size, seed=sum(size)))["scores"]) for size in SIZES]
    assert max(counts) > 1


@pytest.mark.parametrize(("name", "runtime"), [("tracing", TorchScript()), ("onnx", OnnxRuntime())])
def test_no_detection_at_all_gives_empty_outputs(
    model: nn.Module, contract: Contract, tmp_path: Path, name: str, runtime: TorchScript | OnnxRuntime
) -> None:
    predictor = model.roi_heads.box_predictor
    before = predictor.score_threshold
    predictor.score_threshold = 2.0  # no score reaches it
    try:
        method: ExportMethod = Tracing() if name == "tracing" else Onnx()
        method.export(model, image(64, 96), tmp_path / name, contract=contract, provenance=PROVENANCE)
    finally:
        predictor.score_threshold = before
    outputs = runtime.open(tmp_path / name)(image(96, 64))
    assert outputs["pred_boxes"].shape == (0, 4)
    assert outputs["pred_masks"].shape == (0, 28, 28)


def test_the_onnx_file_says_nothing_of_this_machine_and_keeps_the_contracts_names(
    exported: dict[str, Path],
) -> None:
    import onnx

    content = (exported["onnx"] / "model.onnx").read_bytes()
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
    assert artifact.options == {"opset_version": 20}
    assert artifact.weights_sha256 == "w"


@pytest.mark.parametrize("method", [Tracing(), Scripting(), Onnx()])
def test_a_model_in_training_mode_is_refused_and_nothing_is_written(
    model: nn.Module, contract: Contract, tmp_path: Path, method: ExportMethod
) -> None:
    model.train()
    try:
        with pytest.raises(ExportError, match="training mode"):
            method.export(model, image(64, 64), tmp_path / "a", contract=contract, provenance=PROVENANCE)
    finally:
        model.eval()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset_version", [9, 17, 999])
def test_an_opset_that_cannot_hold_the_graph_is_refused(
    model: nn.Module, contract: Contract, tmp_path: Path, opset_version: int
) -> None:
    with pytest.raises(ExportError, match="opset_version"):
        Onnx(opset_version).export(
            model, image(64, 64), tmp_path / "a", contract=contract, provenance=PROVENANCE
        )
    assert not (tmp_path / "a").exists()


def test_scripting_in_a_process_with_random_hashes_is_refused(
    model: nn.Module, contract: Contract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    if not sys.flags.hash_randomization:
        pytest.skip("this process was started with PYTHONHASHSEED=0")
    with pytest.raises(ExportError, match="PYTHONHASHSEED"):
        Scripting().export(model, image(64, 64), tmp_path / "a", contract=contract, provenance=PROVENANCE)
