"""Box head: pooled features of a proposal -> a feature vector."""

from typing import Any, List

from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.layers import ShapeSpec, get_norm
from detexport.layers.conv import Conv2d, init_conv_msra, init_xavier
from detexport.modeling.graph_segment import Segment, rows
from detexport.modeling.registries import ROI_BOX_HEAD_REGISTRY


def build_box_head(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """Build ``cfg.MODEL.ROI_BOX_HEAD.NAME`` for pooled features of this shape."""
    return ROI_BOX_HEAD_REGISTRY.build(cfg, input_shape)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """Convolutions, then fully connected layers, each followed by ReLU.

    Args:
        input_shape: shape of the pooled features.
        conv_dims: channels of the convolutions ``conv1``, ``conv2``, ...
        fc_dims: channels of the layers ``fc1``, ``fc2``, ...
        conv_norm: name of the convolutions' normalization.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, conv_dims: list[int], fc_dims: list[int], conv_norm: Any = ""
    ) -> None:
        super().__init__()
        channels = input_shape.channels
        for index, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(channels, dim, 3, padding=1, norm=get_norm(conv_norm, dim), relu=True)
            init_conv_msra(conv)
            self.add_module(f"conv{index}", conv)
            channels = dim
        cells = (input_shape.height or 1) * (input_shape.width or 1)
        for index, dim in enumerate(fc_dims, start=1):
            if index == 1:
                self.add_module("flatten", nn.Flatten())
                channels *= cells
            linear = nn.Linear(channels, dim)
            init_xavier(linear)
            self.add_module(f"fc{index}", linear)
            self.add_module(f"fc_relu{index}", nn.ReLU(inplace=True))
            channels = dim
        self.output_shape = ShapeSpec(channels=channels)
        if not fc_dims:
            self.output_shape = ShapeSpec(channels, height=input_shape.height, width=input_shape.width)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [node.CONV_DIM] * node.NUM_CONV,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
            "conv_norm": node.NORM,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (R, D) for (R, C, H, W), or maps (R, D, H, W) without fully connected layers."""
        for layer in self:
            x = layer(x)
        return x


class _BoxHead(nn.Module):
    """pooled features -> logits and box deltas of each proposal."""

    def __init__(self, head: Any, predictor: nn.Module) -> None:
        super().__init__()
        self.head: Any = head
        self.predictor = predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        logits, deltas = self.predictor(self.head(tensors[0]))
        return [logits, deltas]


def box_head_segment(name: str, head: Any, predictor: nn.Module) -> Segment:
    """Return the segment from the pooled features ``{name}_pooled`` to logits and box deltas."""
    outputs = rows(f"{name}_logits", f"{name}_deltas")
    return Segment(f"{name}_head", _BoxHead(head, predictor), rows(f"{name}_pooled"), outputs)
