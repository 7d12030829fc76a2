import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d, ShapeSpec
from detexport.layers.conv import Conv2d, shapes_of


def test_parameter_names_are_those_of_published_checkpoints() -> None:
    assert list(Conv2d(3, 4, 1).state_dict()) == ["weight", "bias"]
    assert list(Conv2d(3, 4, 1, norm=FrozenBatchNorm2d(4)).state_dict()) == [
        "weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    ]
    assert Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4), bias=True).bias is not None


def test_convolution_then_norm_then_relu() -> None:
    norm = FrozenBatchNorm2d(4)
    norm.bias.fill_(-0.5)
    conv = Conv2d(3, 4, 3, stride=2, padding=1, norm=norm, relu=True)
    x = torch.randn(2, 3, 9, 9)
    expected = F.relu(norm(F.conv2d(x, conv.weight, None, stride=2, padding=1)))
    assert torch.equal(conv(x), expected)
    assert torch.equal(torch.jit.script(conv)(x), expected)
    assert Conv2d(3, 4, 3)(x).min() < 0


def test_shapes_of_named_feature_maps() -> None:
    shapes = {"p2": ShapeSpec(8, stride=4), "p3": ShapeSpec(8, stride=8)}
    assert shapes_of(shapes, ["p3", "p2"], "KEY") == [shapes["p3"], shapes["p2"]]
    with pytest.raises(ConfigError, match=r"MODEL.RPN.IN_FEATURES.*\['p7'\].*p2, p3"):
        shapes_of(shapes, ["p2", "p7"], "MODEL.RPN.IN_FEATURES")
    with pytest.raises(ConfigError, match="names no feature map"):
        shapes_of(shapes, [], "MODEL.RPN.IN_FEATURES")
