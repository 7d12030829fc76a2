"""The choice of ONNX's exporter: what torch.export refuses goes through a trace, and only when asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.contract import DETECTION_OUTPUTS, IMAGE, Contract, ResizeRule
from detexport.errors import ExportError
from detexport.export import Provenance
from detexport.modeling.meta_arch import torchvision_small
from detexport.runtime.onnxruntime import OnnxRuntime
from makers import maker

CONTRACT = Contract(
    inputs=(IMAGE,),
    outputs=DETECTION_OUTPUTS,
    channel_order="RGB",
    resize=ResizeRule(0, 0),
    pixel_mean=(0.0, 0.0, 0.0),
    pixel_std=(255.0, 255.0, 255.0),
    size_divisibility=0,
    class_names=tuple("abcdef"),
    score_threshold=0.02,
    nms_threshold=0.5,
    max_detections=20,
)
PROVENANCE = Provenance("w", "c")


class Own(nn.Module):
    """torchvision's Faster R-CNN as it is, its own code from the image to the detections."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torchvision_small.faster_rcnn(num_classes=6)
        self.net.transform._skip_resize = True
        self.net.roi_heads.score_thresh = CONTRACT.score_threshold
        nn.init.normal_(self.net.roi_heads.box_predictor.cls_score.weight, std=0.5)
        # torchvision gives the boxes in the frame of the image before it was resized: here it was not.
        self.net.transform.postprocess = lambda found, sizes, original: found

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.net([image.to(torch.float32) / 255])[0]
        return found["boxes"], found["scores"], found["labels"]


class Branching(nn.Module):
    """It asks what a tensor says, which ``torch.export`` cannot answer for every image."""

    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        boxes = (image[0] > 127).nonzero().to(torch.float32).repeat(1, 2)
        if len(boxes) > 3:
            boxes = boxes[:3]
        return boxes, boxes[:, 0], boxes[:, 0].to(torch.int64)


def draw(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 255, (3, height, width), dtype=np.uint8)


def test_the_error_of_the_exporter_names_the_other_one_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        maker("onnx").export(
            Branching().eval(), draw(96, 128), tmp_path / "a", contract=CONTRACT, provenance=PROVENANCE
        )
    assert "exporter=torchscript" in str(error.value)
    assert "data-dependent" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_torchvisions_own_code_goes_through_a_trace_and_keeps_every_size_free(tmp_path: Path) -> None:
    model = Own().eval()
    sizes = [(96, 128), (64, 64), (131, 97), (33, 250)]
    maker("onnx", exporter="torchscript").export(
        model, draw(70, 90), tmp_path / "a", contract=CONTRACT, provenance=PROVENANCE
    )
    session = OnnxRuntime().open(tmp_path / "a")
    for image in (draw(*size) for size in sizes):
        with torch.no_grad():
            expected = model(torch.from_numpy(image))
        assert len(expected[1]) > 0
        for value, wanted in zip(session(image).values(), expected, strict=True):
            np.testing.assert_allclose(value, wanted.numpy(), atol=1e-3)
