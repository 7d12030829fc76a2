"""torchvision's families through the exports, a small trained model of each: equal to eager at every size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import read_image
from detexport.data.resize import resize_image
from detexport.export import ExportMethod, Provenance
from detexport.modeling import build_model
from detexport.parity.compare import compare
from detexport.processing.postprocess import postprocess
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.session import Engine
from detexport.runtime.torchscript import TorchScript
from makers import maker
from synthetic_shapes import synthetic_shapes
from tolerances import TOLERANCE

ROOT = Path(__file__).parents[2]
CLASSES = ("circle", "rectangle", "triangle", "star", "ring")
SIZES = [(160, 208), (64, 64), (131, 97), (33, 250), (300, 224), (16, 16)]
FAMILIES = ["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "ssd", "ssdlite"]
METHODS: dict[str, tuple[ExportMethod, Engine]] = {
    "tracing": (maker("tracing"), TorchScript()),
    "onnx_torchscript": (maker("onnx", exporter="torchscript"), OnnxRuntime()),
    "onnx": (maker("onnx"), OnnxRuntime()),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """A validation image at every size, and one without anything."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=3).write(folder)
    picture = read_image(folder / "images/val/000001.png", "RGB")
    return [*(resize_image(picture, size) for size in SIZES), np.zeros((3, 96, 64), np.uint8)]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    cfg = load_cfg(ROOT / f"conf/torchvision/{request.param}.yaml")
    cfg.MODEL.TORCHVISION.SCORE_THRESH = 0.3  # an image without objects has no detection
    net = build_model(cfg).eval()
    load_weights(net, read_state_dict(ROOT / f"checkpoints/torchvision_{request.param}.safetensors"))
    return net


@torch.no_grad()
def eager(model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.detect([torch.from_numpy(image)])[0].items()}


def test_the_images_have_no_and_many_detections(model: Any, images: list[np.ndarray]) -> None:
    counts = [len(eager(model, image)["scores"]) for image in images]
    assert counts[-1] == 0
    assert max(counts) >= 3


@pytest.mark.parametrize(
    "method", ["tracing", "onnx_torchscript", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_an_artifact_finds_what_the_model_finds(
    model: Any, images: list[np.ndarray], tmp_path: Path, method: str
) -> None:
    contract = model.contract(CLASSES)
    export, engine = METHODS[method]
    sample = resize_image(images[0], (112, 144))
    export.export(model, sample, tmp_path / "a", contract=contract, provenance=Provenance("w", "c"))
    session = engine.open(tmp_path / "a")
    for image in images:
        size = (image.shape[1], image.shape[2])
        expected, found = (
            postprocess(outputs, size, size, contract) for outputs in (eager(model, image), session(image))
        )
        parity = compare(expected, found, tolerance=TOLERANCE, contract=contract, scale=1.0)
        assert parity.reasons == (), size
