"""Graphs that end in the frame of the wanted output give what the raw ones give after post-processing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.resize import resize_image
from detexport.errors import ExportError
from detexport.export import Provenance
from detexport.export.graph_end import batch_graph, image_graph
from detexport.modeling import build_model
from detexport.processing.postprocess import postprocess
from detexport.runtime import Session
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript, TorchScriptSession
from makers import maker
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_image
from tiny_models import CONTRACTS, TinyModel, raw_outputs

ROOT = Path(__file__).parents[2]
PROVENANCE = Provenance(weights_sha256="w", config_sha256="c")
# The image's size and the output's: smaller, larger, odd, of one pixel.
SIZES = [((30, 50), (30, 50)), ((41, 23), (90, 77)), ((64, 96), (17, 9)), ((8, 8), (1, 1))]


@pytest.fixture(scope="module", params=CONTRACTS)
def contract(request: pytest.FixtureRequest) -> Contract:
    return CONTRACTS[request.param]


@pytest.fixture(scope="module", params=["tracing", "scripting", "onnx"])
def session(
    request: pytest.FixtureRequest, contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    folder = tmp_path_factory.mktemp(request.param) / "artifact"
    model, sample = TinyModel(contract), tiny_image(48, 40)
    if request.param == "onnx":
        maker("onnx", graph_end="pasted").export(
            model, sample, folder, contract=contract, provenance=PROVENANCE
        )
        return OnnxRuntime(threads=1).open(folder)
    artifact = maker("tracing", graph_end="pasted").export(
        model, sample, folder, contract=contract, provenance=PROVENANCE
    )
    if request.param == "tracing":
        return TorchScript().open(folder)
    # Not through a file, which needs a process with fixed hashes.
    scripted = torch.jit.script(batch_graph(model, artifact.contract))
    return TorchScriptSession(replace(artifact, batch="any"), "cpu", scripted)


@pytest.mark.parametrize(("image_size", "output_size"), SIZES)
@pytest.mark.parametrize("brightness", [(200, 90, 140), (100, 10, 10), (20, 20, 20)])
def test_a_pasted_graph_gives_what_post_processing_makes_of_a_raw_one(
    session: Session,
    contract: Contract,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    brightness: tuple[int, int, int],
) -> None:
    image = tiny_image(*image_size, brightness)
    expected = postprocess(raw_outputs(contract, image), image_size, output_size, contract)
    outputs = session(image, output_size)
    assert tuple(outputs) == contract.output_names
    actual = postprocess(outputs, image_size, output_size, session.artifact.contract)
    assert actual.keys() == expected.keys()
    for name in contract.output_names:
        assert actual[name].dtype == expected[name].dtype, name
        assert actual[name].shape == expected[name].shape, name
        if name == "pred_masks":
            assert np.count_nonzero(actual[name] != expected[name]) <= 1e-3 * actual[name].size
        else:
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_the_images_see_all_some_and_no_detections(contract: Contract) -> None:
    row = contract.row_names[0]
    assert [
        len(raw_outputs(contract, tiny_image(30, 50, brightness))[row])
        for brightness in [(200, 90, 140), (100, 10, 10), (20, 20, 20)]
    ] == [3, 1, 0]


def test_without_a_wanted_size_the_images_own_is_taken(session: Session, contract: Contract) -> None:
    image = tiny_image(30, 50)
    for name, value in session(image, (30, 50)).items():
        np.testing.assert_array_equal(session(image)[name], value)


def test_the_artifact_and_its_contract_say_where_the_graph_ends(session: Session, contract: Contract) -> None:
    artifact = session.artifact
    assert artifact.graph_end == artifact.contract.graph_end == "pasted"
    assert artifact.options["graph_end"] == "pasted"
    assert [spec.name for spec in artifact.contract.inputs] == ["image", "output_size"]
    assert artifact.contract == contract.ending("pasted")
    shapes = {spec.name: (spec.dtype, spec.shape) for spec in artifact.contract.outputs}
    if "pred_masks" in shapes:
        assert shapes["pred_masks"] == ("bool", ("R", "height", "width"))
        assert shapes["sem_seg"] == ("float32", (3, "height", "width"))


def test_onnx_names_the_sides_of_the_output(tmp_path: Path) -> None:
    import onnx

    contract = CONTRACTS["everything"]
    method = maker("onnx", graph_end="pasted")
    method.export(TinyModel(contract), tiny_image(), tmp_path / "a", contract=contract, provenance=PROVENANCE)
    graph = onnx.load(tmp_path / "a" / "model.onnx").graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes["output_size"] == [2]
    assert shapes["pred_masks"] == ["R", "height", "width"]
    assert shapes["sem_seg"] == [3, "height", "width"]


def test_a_traced_file_holds_no_device(tmp_path: Path) -> None:
    contract = CONTRACTS["everything"]
    maker("tracing", graph_end="pasted").export(
        TinyModel(contract), tiny_image(), tmp_path / "a", contract=contract, provenance=PROVENANCE
    )
    assert b'torch.device("' not in (tmp_path / "a" / "model.pt").read_bytes()


@pytest.mark.parametrize(
    "method", [maker("tracing", graph_end="cropped"), maker("onnx", graph_end="cropped")]
)
def test_another_end_is_refused(method: Any, tmp_path: Path) -> None:
    contract = CONTRACTS["everything"]
    with pytest.raises(ExportError, match="cannot have this end; got: graph_end: 'cropped'"):
        method.export(
            TinyModel(contract), tiny_image(), tmp_path / "a", contract=contract, provenance=PROVENANCE
        )
    assert list(tmp_path.iterdir()) == []


# The trained models whose outputs differ in kind; the others end as one of these does.
TRAINED = ["mask_rcnn", "keypoint_rcnn", "panoptic_fpn"]
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("faster_rcnn", "retinanet", "cascade_mask_rcnn", "pointrend")
]


@pytest.mark.parametrize("name", [*TRAINED, *SLOW])
def test_a_trained_models_graphs_give_what_the_model_gives(name: str, tmp_path: Path) -> None:
    """Traced, and scripted with images of different sizes in a batch: the same numbers."""
    model = build_model(load_cfg(ROOT / f"conf/detectron2/{name}.yaml")).eval()
    load_weights(model, read_state_dict(ROOT / f"checkpoints/{name}.safetensors"))
    contract = model.contract(("a", "b", "c", "d", "e")).ending("pasted")
    synthetic_shapes(train_images=0, val_images=2).write(tmp_path / "shapes")
    picture = read_image(tmp_path / "shapes/images/val/000001.png", "RGB")
    images = [torch.from_numpy(resize_image(picture, size)) for size in [(96, 128), (131, 97)]]
    sizes = [(200, 301), (64, 33)]
    graph = image_graph(model, contract)
    with torch.inference_mode():
        traced = torch.jit.trace(graph, (images[0][:, :80, :90], torch.tensor([5, 6])), check_trace=False)
        scripted = torch.jit.script(batch_graph(model, contract))
        for image, size in zip(images, sizes, strict=True):
            (expected,) = eager(model, [image], [size], contract)
            found = dict(zip(contract.output_names, traced(image, torch.tensor(size)), strict=True))
            assert_equal(found, expected)
        found_in_batch = scripted(images, [torch.tensor(size) for size in sizes])
        for found, expected in zip(found_in_batch, eager(model, images, sizes, contract), strict=True):
            assert len(expected["scores"]) > 0
            assert_equal(found, expected)


def eager(
    model: nn.Module, images: list[Tensor], sizes: list[tuple[int, int]], contract: Contract
) -> list[dict[str, Tensor]]:
    results = model(
        [
            {"image": image, "height": height, "width": width}
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
    )
    given = [{**result["instances"].get_fields(), **result} for result in results]
    names = contract.output_names
    return [{name: getattr(fields[name], "tensor", fields[name]) for name in names} for fields in given]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        # Masks to the bit; the last bits of sums follow how a graph is fused.
        np.testing.assert_allclose(found[name].numpy(), value.numpy(), rtol=1e-6, atol=1e-5, err_msg=name)
