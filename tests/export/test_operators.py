"""torchvision's operators in ONNX: those that the exporter does not know by itself."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.export.onnx import TRANSLATIONS
from detexport.layers import DeformConv
from detexport.modeling.poolers import ROIPooler


class Deformed(nn.Module):
    """A deformable convolution whose offsets, and mask, are its input's channels."""

    def __init__(self, modulated: bool) -> None:
        super().__init__()
        self.modulated = modulated
        self.conv = DeformConv(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, deformable_groups=2)
        self.offset = nn.Conv2d(4, 36, 3, stride=2, padding=2, dilation=2)
        self.mask = nn.Conv2d(4, 18, 3, stride=2, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x) * 3, self.mask(x).sigmoid() if self.modulated else None)


class Pooled(nn.Module):
    """The maximum within two boxes, one of them beyond the map's edge, of those that reach over 5 px."""

    def __init__(self) -> None:
        super().__init__()
        self.pooler = ROIPooler(output_size=3, scales=[1 / 4], sampling_ratio=0, pooler_type="ROIPool")
        self.boxes = nn.Buffer(torch.tensor([[3.0, 1, 40, 33], [-6, 2, 90, 9], [1, 1, 2, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        boxes = self.boxes[(self.boxes[:, 2] > 5).nonzero()[:, 0]]
        return self.pooler.pool([x], [boxes])


@pytest.mark.parametrize(
    "build", [lambda: Deformed(False), lambda: Deformed(True), Pooled], ids=["offsets", "mask", "ROIPool"]
)
def test_onnx_runtime_computes_it_at_every_size(build: Callable[[], nn.Module]) -> None:
    import onnxruntime

    torch.manual_seed(0)
    module = build().eval()
    free = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.onnx.export(
        module,
        (torch.randn(1, 4, 16, 20),),
        dynamo=True,
        dynamic_shapes=(free,),
        opset_version=20,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for height, width in ((16, 20), (9, 31)):
        x = torch.randn(1, 4, height, width)
        with torch.no_grad():
            expected = module(x).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
