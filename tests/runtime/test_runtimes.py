"""Each runtime with each artifact that belongs to it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from detexport.artifact import Format, read_artifact
from detexport.errors import ArtifactError, ConfigError, RuntimeUnavailableError
from detexport.runtime import Session, default_engine, load
from detexport.runtime.openvino import OpenVinoRuntime
from tiny_artifacts import FRACTIONS, KINDS, tiny_contract, tiny_image, write_tiny_onnx

ARTIFACTS = ["tiny_onnx", "tiny_openvino", "tiny_scripting", "tiny_tracing"]


@pytest.fixture(params=ARTIFACTS)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture
def session(folder: Path) -> Session:
    return default_engine(read_artifact(folder).format).open(folder)


@pytest.mark.parametrize("size", [(30, 50), (77, 41), (1, 1)])
def test_gives_the_graphs_outputs_by_name(session: Session, size: tuple[int, int]) -> None:
    image = tiny_image(*size)
    outputs = session(image)
    means = image.mean((1, 2)) / 255
    order = np.argsort(-means)
    np.testing.assert_allclose(outputs["scores"], means[order], rtol=1e-5)
    np.testing.assert_array_equal(outputs["pred_classes"], order)
    sides = np.array([size[1], size[0]] * 2)
    np.testing.assert_allclose(outputs["pred_boxes"], (FRACTIONS * sides)[order], rtol=1e-6)
    assert outputs["pred_masks"].shape == (3, 28, 28)
    assert list(outputs) == list(session.artifact.contract.output_names)
    assert session.device == "cpu"


def test_no_detection(session: Session) -> None:
    outputs = session(np.zeros((3, 20, 30), np.uint8))
    assert [value.shape for value in outputs.values()] == [(0, 4), (0,), (0,), (0, 28, 28)]


def test_views_and_read_only_images_are_taken(session: Session) -> None:
    image = tiny_image()
    frozen = image.copy()
    frozen.flags.writeable = False
    flipped = image[:, ::-1, ::-1][:, ::-1, ::-1]
    for other in (frozen, flipped):
        np.testing.assert_array_equal(session(other)["scores"], session(image)["scores"])


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (np.zeros((3, 8, 8), np.float32), r"float32 \(3, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"uint8 \(1, 3, 8, 8\)"),
        (np.zeros((3, 0, 8), np.uint8), r"uint8 \(3, 0, 8\)"),
        ([[1]], "list"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(session: Session, image: np.ndarray, got: str) -> None:
    with pytest.raises(ArtifactError, match=rf"does not fit the graph; got: {got}; expected: numpy uint8"):
        session(image)


@pytest.mark.parametrize("size", [(100.7, 50.2), (5,), (5, 6, 7), (0, 5), (5, 65_536), ("5", "6"), 5])
def test_what_is_no_size_of_an_output_is_refused(session: Session, size: Any) -> None:
    with pytest.raises(ArtifactError, match=r"invalid output size; got: \(height, width\)"):
        session(tiny_image(), size)


def test_the_size_of_an_output_may_be_of_numpys_numbers(session: Session) -> None:
    outputs = session(tiny_image(), tuple(np.array([60, 90])))
    np.testing.assert_array_equal(outputs["scores"], session(tiny_image())["scores"])


def test_a_precision_that_openvino_is_not_asked_for_is_refused(tiny_openvino: Path) -> None:
    with pytest.raises(ConfigError, match="unknown precision; got: f16; expected: f32 or bf16"):
        OpenVinoRuntime(precision="f16").open(tiny_openvino)  # type: ignore[arg-type]


def test_a_changed_file_is_not_loaded(tmp_path: Path) -> None:
    artifact = write_tiny_onnx(tmp_path)
    path = tmp_path / artifact.main_file
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match="is not the file that was exported"):
        load(tmp_path)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_a_runtime_refuses_another_format(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    own = read_artifact(folder).format
    other = Format.TORCHSCRIPT if own is Format.ONNX else Format.ONNX
    with pytest.raises(ArtifactError, match="cannot be opened by this runtime"):
        default_engine(other).open(folder)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x"])
def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(folder: Path, device: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=f"cannot run on '{device}'"):
        load(folder, device)


def test_a_graph_that_breaks_its_contract_is_named(tmp_path: Path) -> None:
    contract = tiny_contract()
    scores = replace(contract.outputs[1], dtype="float64")
    write_tiny_onnx(tmp_path, contract=replace(contract, outputs=(contract.outputs[0], scores)))
    session = default_engine(Format.ONNX).open(tmp_path)
    with pytest.raises(ArtifactError, match=r"outputs do not match its contract; got: .*float32 of rank 1"):
        session(tiny_image())


def test_load_gives_the_eager_models_interface(folder: Path) -> None:
    image = torch.from_numpy(tiny_image())
    scaled, plain = load(folder)(
        [{"image": image, "height": 60, "width": 150, "file_name": "a"}, {"image": image}]
    )
    instances = scaled["instances"]
    assert instances.image_size == (60, 150)
    assert instances.pred_boxes.tensor[0].tolist() == pytest.approx([15, 12, 90, 42])
    assert instances.pred_masks.shape == (3, 60, 150)
    assert instances.pred_masks.dtype == torch.bool
    assert plain["instances"].image_size == (30, 50)
    assert plain["instances"].pred_boxes.tensor[0].tolist() == pytest.approx([5, 6, 30, 21])


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("detexport.runtime", ["torch", "onnxruntime", "onnx"]),
        ("detexport.runtime.onnxruntime", ["torch", "onnx"]),
        ("detexport.runtime.openvino", ["torch", "onnxruntime", "onnx", "openvino_telemetry"]),
        ("detexport.runtime.torchscript", ["onnxruntime", "onnx", "openvino"]),
        ("detexport.processing.postprocess", ["torch", "onnxruntime", "onnx"]),
    ],
)
def test_a_runtime_imports_its_own_engine_only(module: str, absent: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", KINDS)
def test_load_gives_what_the_eager_model_gives(kind: str, tmp_path: Path) -> None:
    artifact = write_tiny_onnx(tmp_path, kind)
    image = torch.from_numpy(tiny_image())
    (result,) = load(tmp_path)([{"image": image, "height": 60, "width": 150}])
    assert set(result) == set(artifact.contract.results)
    if "instances" in result:
        assert result["instances"].image_size == (60, 150)
    if kind == "keypoints":
        keypoints = result["instances"].pred_keypoints
        assert keypoints.shape == (3, 2, 3)
        assert keypoints[0].flatten().tolist() == pytest.approx([30, 18, 0.5, 30, 24, 2])
    if kind == "proposals":
        proposals = result["proposals"]
        assert proposals.proposal_boxes.tensor[0].tolist() == pytest.approx([15, 12, 90, 42])
        assert proposals.objectness_logits.shape == (3,)
    if "sem_seg" in result:
        expected = interpolate(image[None] / 255, (60, 150), mode="bilinear")[0]
        torch.testing.assert_close(result["sem_seg"], expected)
    if kind == "panoptic":
        ids, segments_info = result["panoptic_seg"]
        assert (ids.shape, ids.dtype) == ((60, 150), torch.int32)
        assert {one["id"] for one in segments_info} == set(ids.unique().tolist()) - {0}
