"""Convolutions with normalization and activation, their initialization, and shapes of feature maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.errors import ConfigError

# Always an int in this package; optional, since OmegaConf checks lazy configurations by the annotation.
if TYPE_CHECKING:
    _Known = int
else:
    _Known = int | None


@dataclass(frozen=True)
class ShapeSpec:
    """Declared shape of a feature map: channels, stride in px, and height and width if fixed.

    An unknown value is None.
    """

    channels: _Known = None  # type: ignore[assignment]
    height: int | None = None
    width: int | None = None
    stride: _Known = None  # type: ignore[assignment]


def shapes_of(shapes: Mapping[str, ShapeSpec], names: Sequence[str], key: str) -> list[ShapeSpec]:
    """Return the shapes of the feature maps that the configuration's ``key`` names.

    Raises:
        ConfigError: a feature map does not exist, or none is named.
    """
    unknown = [name for name in names if name not in shapes]
    if unknown or not names:
        raise ConfigError(
            f"{key} names feature maps that do not exist" if unknown else f"{key} names no feature map",
            got=unknown or None,
            expected=f"some of {', '.join(shapes)}",
            remedy=f"correct {key}, or the OUT_FEATURES below it",
        )
    return [shapes[name] for name in names]


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, then ``norm``, then ReLU where ``relu`` is set.

    The normalization is a child module (``conv.norm.weight``), as detectron2's checkpoints name it.
    """

    def __init__(self, *args: Any, norm: nn.Module | None = None, relu: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("bias", norm is None)
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H', W')."""
        x = self._conv_forward(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        if self.relu:
            x = F.relu(
                x, inplace=True
            )  # x is not the input, and memory traffic costs more than the arithmetic
        return x


class OneChannelConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` with one output channel, which ``torch.export`` records for every size of the map.

    torch derives the memory layout of the output from its strides, which for one channel depends on whether
    the map has more than one cell.

    Args:
        in_channels: channels of the input.
        kernel_size: side of the kernel.
        **kwargs: see ``torch.nn.Conv2d``.
    """

    def __init__(self, in_channels: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(in_channels, 1, kernel_size, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 1, H', W')."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript must not compile the other condition
            if torch.compiler.is_exporting():
                weight = torch.cat((self.weight, self.weight))
                bias = None if self.bias is None else torch.cat((self.bias, self.bias))
                return self._conv_forward(x, weight, bias)[:, :1]
        return self._conv_forward(x, self.weight, self.bias)


def init_conv_msra(conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialize a convolution before ReLU: normal, fan-out (He et al. 2015)."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Initialize a convolution without ReLU, or a linear layer: uniform, fan-in (Caffe2's Xavier fill)."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_normal(layer: nn.Conv1d | nn.Conv2d | nn.Linear, std: float, bias: float = 0.0) -> None:
    """Initialize a predictor: normal weights of deviation ``std``, a constant bias."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
