"""``nms_per_class`` in ONNX: the graphs of both exporters keep what eager keeps, in both runtimes."""

import io
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from detexport.export.onnx import TRANSLATIONS
from detexport.export.onnx_nms import float32_below
from detexport.formats.pt2 import dynamic_nms_count
from detexport.layers import nms_per_class
from detexport.layers.nms import nms_recorded_whole

INPUTS = ["boxes", "scores", "classes"]
THRESHOLD = 0.6
Run = Callable[[Tensor, Tensor, Tensor], np.ndarray]


class Suppress(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        return nms_per_class(boxes, scores, classes, THRESHOLD)


def draw(count: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Small boxes, many of which overlap, where float32 has few digits to spare; many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    spot = torch.randint(max(count // 4, 1), (count,), generator=generator)
    places = 1300 * torch.rand(max(count // 4, 1), 2, generator=generator) - 100
    corner = places[spot] + 12 * torch.rand(count, 2, generator=generator)
    size = 10 + 30 * torch.rand(count, 2, generator=generator)
    scores = torch.randint(max(count // 2, 1), (count,), generator=generator) / max(count, 1) - 0.1
    return torch.cat([corner, corner + size], dim=1), scores, 7 * spot % num_classes


def by_program() -> onnx.ModelProto:
    free = ({0: torch.export.Dim.DYNAMIC(min=0)},) * 3
    with dynamic_nms_count(), nms_recorded_whole():
        recorded = torch.export.export(Suppress(), draw(12, 3), dynamic_shapes=free, strict=False)
        program = torch.onnx.export(
            recorded,
            (),
            dynamo=True,
            input_names=INPUTS,
            output_names=["kept"],
            opset_version=18,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def by_trace() -> onnx.ModelProto:
    file = io.BytesIO()
    with nms_recorded_whole():
        torch.onnx.export(
            Suppress(),
            draw(12, 3),
            file,  # type: ignore[arg-type]
            dynamo=False,
            input_names=INPUTS,
            output_names=["kept"],
            dynamic_axes={name: {0: "R"} for name in INPUTS} | {"kept": {0: "K"}},
            opset_version=18,
        )
    return onnx.load_from_string(file.getvalue())


def onnxruntime_session(proto: onnx.ModelProto) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda *tensors: session.run(None, {n: t.numpy() for n, t in zip(INPUTS, tensors, strict=True)})[0]


def openvino_session(proto: onnx.ModelProto) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(proto.SerializeToString(), b"")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *tensors: compiled({n: t.numpy() for n, t in zip(INPUTS, tensors, strict=True)})[0]


@pytest.fixture(scope="module", params=[by_program, by_trace])
def proto(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return request.param()


@pytest.fixture(scope="module", params=[onnxruntime_session, openvino_session])
def run(request: pytest.FixtureRequest, proto: onnx.ModelProto) -> Run:
    return request.param(proto)


@pytest.mark.parametrize(
    ("count", "num_classes"), [(0, 3), (1, 3), (2, 1), (300, 80), (1500, 5), (2000, 1203), (8000, 1203)]
)
def test_keeps_what_eager_keeps(run: Run, count: int, num_classes: int) -> None:
    tensors = draw(count, num_classes)
    expected = nms_per_class(*tensors, THRESHOLD).tolist()
    assert count < 300 or count / 4 < len(expected) < count
    assert run(*tensors).tolist() == expected


def test_an_overlap_that_equals_the_threshold(run: Run) -> None:
    """3/5 in float32 is greater than 0.6, and not greater than 0.6 in float32."""
    boxes = torch.tensor([[0.0, 0, 8, 10], [2, 0, 10, 10], [0, 20, 8, 30], [2, 20, 10, 30]])
    kept = run(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 0, 1]))
    assert kept.tolist() == [0, 2, 3]
    assert nms_per_class(boxes[:2], torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), THRESHOLD).tolist() == [0]


def test_knows_no_class_by_its_place(proto: onnx.ModelProto) -> None:
    """A class is a part of the batch: no arithmetic on coordinates is left that could round them."""
    producers = {output: node.op_type for node in proto.graph.node for output in node.output}
    (suppression,) = [node for node in proto.graph.node if node.op_type == "NonMaxSuppression"]
    assert producers[suppression.input[0]] == "Gather"


@pytest.mark.parametrize("value", [1e-8, 0.3, 0.5, 0.6, 0.7, 1.0])
def test_float32_below(value: float) -> None:
    below = float32_below(value)
    assert below == float(np.float32(below))
    assert below <= value < float(np.nextafter(np.float32(below), np.float32(2)))
