"""Point heads: features of a point -> one logit per class.

Shapes: R boxes or images, P points per box or image, C channels, K classes.
"""

import math
from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.layers.conv import init_conv_msra, init_normal
from detexport.modeling.registries import POINT_HEAD_REGISTRY

ENCODING_FREQUENCIES = 128
"""Number of random frequencies of the positional encoding, as in all published configurations."""


def build_point_head(cfg: CfgNode, input_shape: ShapeSpec) -> Any:
    """Build ``cfg.MODEL.POINT_HEAD.NAME`` for point features of this shape."""
    return POINT_HEAD_REGISTRY.build(cfg, input_shape)


class StandardPointHead(nn.Sequential):
    """An MLP that all points share: fine features and coarse logits -> refined logits.

    Args:
        input_shape: shape of the fine features.
        num_classes: K of the coarse logits.
        num_outputs: logits per point: K, or 1 if class-agnostic.
        fc_dims: channels of the layers ``fc1``, ``fc2``, ...
        coarse_each_layer: the coarse logits are an input of every layer, not only of the first.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        num_outputs: int,
        fc_dims: list[int],
        coarse_each_layer: bool,
    ) -> None:
        super().__init__()
        channels = input_shape.channels + num_classes
        for index, dim in enumerate(fc_dims, start=1):
            layer = nn.Conv1d(channels, dim, 1)
            init_conv_msra(layer)
            self.add_module(f"fc{index}", layer)
            channels = dim + (num_classes if coarse_each_layer else 0)
        self.predictor = nn.Conv1d(channels, num_outputs, 1)
        init_normal(self.predictor, std=0.001)
        self.coarse_each_layer = coarse_each_layer

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:  # type: ignore[override]
        """Return logits (R, K or 1, P) for features (R, C, P) and coarse logits (R, K, P)."""
        x = torch.cat((fine, coarse), dim=1)
        logits = x
        for layer in self:
            logits = layer(x)
            x = F.relu(logits)
            if self.coarse_each_layer:
                x = torch.cat((x, coarse), dim=1)
        return logits


class ImplicitPointHead(nn.Module):
    """An MLP per box with predicted parameters: position and features of a point -> logits.

    The positional encoding is sines and cosines of random frequencies (Tancik et al. 2020, arXiv:2006.10739).

    Args:
        input_shape: shape of the features of a point.
        num_outputs: logits per point: K, or 1 if class-agnostic.
        fc_dims: channels of the hidden layers.
        use_features: use the point's features as inputs.
        use_position: use the point's positional encoding as inputs.
    """

    positional_encoding_gaussian_matrix: Optional[Tensor]

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_outputs: int,
        fc_dims: list[int],
        use_features: bool,
        use_position: bool,
    ) -> None:
        super().__init__()
        matrix = torch.randn(2, ENCODING_FREQUENCIES) if use_position else None
        self.register_buffer("positional_encoding_gaussian_matrix", matrix)
        self.use_features = use_features
        channels = 2 * ENCODING_FREQUENCIES if use_position else 0
        if use_features:
            channels += input_shape.channels
        self.dims: List[int] = [channels, *fc_dims, num_outputs]
        weights = [first * second for first, second in zip(self.dims, self.dims[1:], strict=False)]
        self.sizes: List[int] = weights + self.dims[1:]
        self.num_params = sum(self.sizes)

    def forward(self, fine: Tensor, points: Tensor, parameters: Tensor) -> Tensor:
        """Run each box's network.

        Args:
            fine: (R, C, P) features.
            points: (R, P, 2) relative to the boxes, 0..1.
            parameters: (R, num_params): the weights of all layers, (out, in) each, then their biases.

        Returns:
            (R, K or 1, P) logits.
        """
        x = self.inputs(fine, points)
        parts = parameters.split(self.sizes, dim=1)
        layers = len(self.dims) - 1
        for layer in range(layers):
            weight = parts[layer].reshape(-1, self.dims[layer + 1], self.dims[layer])
            x = torch.matmul(weight, x) + parts[layers + layer][:, :, None]
            if layer < layers - 1:
                x = F.relu(x)
        return x

    def inputs(self, fine: Tensor, points: Tensor) -> Tensor:
        """Return the inputs (R, D, P) of the networks for each point."""
        parts: List[Tensor] = []
        frequencies = self.positional_encoding_gaussian_matrix
        if frequencies is not None:
            angles = 2.0 * math.pi * torch.matmul(2.0 * points - 1.0, frequencies)
            parts.append(torch.cat((angles.sin(), angles.cos()), dim=2).transpose(1, 2))
        if self.use_features:
            parts.append(fine)
        return torch.cat(parts, dim=1)

    @torch.jit.unused
    def initial_parameters(self) -> Tensor:
        """Return initial parameters (num_params,): He initialization, with the output layer near 0."""
        weights = [
            torch.randn(size) * (math.sqrt(2.0 / channels) if dim != self.dims[-1] else 0.001)
            for size, channels, dim in zip(self.sizes, self.dims, self.dims[1:], strict=False)
        ]
        return torch.cat((*weights, torch.zeros(sum(self.dims[1:]))))


def point_outputs(cfg: CfgNode) -> int:
    """Return the number of logits per point."""
    node = cfg.MODEL.POINT_HEAD
    return 1 if node.CLS_AGNOSTIC_MASK else node.NUM_CLASSES


@POINT_HEAD_REGISTRY.register(name="StandardPointHead")
def build_standard_point_head(cfg: CfgNode, input_shape: ShapeSpec) -> StandardPointHead:
    """Build PointRend's point head from a configuration."""
    node = cfg.MODEL.POINT_HEAD
    return StandardPointHead(
        input_shape,
        num_classes=node.NUM_CLASSES,
        num_outputs=point_outputs(cfg),
        fc_dims=[node.FC_DIM] * node.NUM_FC,
        coarse_each_layer=node.COARSE_PRED_EACH_LAYER,
    )


@POINT_HEAD_REGISTRY.register(name="ImplicitPointHead")
def build_implicit_point_head(cfg: CfgNode, input_shape: ShapeSpec) -> ImplicitPointHead:
    """Build implicit PointRend's point head from a configuration."""
    node, implicit = cfg.MODEL.POINT_HEAD, cfg.MODEL.IMPLICIT_POINTREND
    if not implicit.IMAGE_FEATURE_ENABLED and not implicit.POS_ENC_ENABLED:
        raise ConfigError(
            "the implicit point head has no inputs",
            got="MODEL.IMPLICIT_POINTREND: IMAGE_FEATURE_ENABLED and POS_ENC_ENABLED False",
            expected="one of them True",
            remedy="set one of them to True",
        )
    return ImplicitPointHead(
        input_shape,
        num_outputs=point_outputs(cfg),
        fc_dims=[node.FC_DIM] * node.NUM_FC,
        use_features=implicit.IMAGE_FEATURE_ENABLED,
        use_position=implicit.POS_ENC_ENABLED,
    )


def check_num_classes(cfg: CfgNode, key: str, num_classes: int) -> None:
    """Check that the point head has as many classes as the prediction that it refines.

    Raises:
        ConfigError: it has not.
    """
    if num_classes != cfg.MODEL.POINT_HEAD.NUM_CLASSES:
        raise ConfigError(
            "the point head and the head that it refines differ in their number of classes",
            got=f"MODEL.POINT_HEAD.NUM_CLASSES: {cfg.MODEL.POINT_HEAD.NUM_CLASSES}",
            expected=f"{num_classes}, as {key}",
            remedy=f"set MODEL.POINT_HEAD.NUM_CLASSES: {num_classes}",
        )
