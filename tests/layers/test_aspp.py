"""Atrous spatial pyramid pooling."""

import pytest
import torch
import torch.nn.functional as F

from detexport.errors import ConfigError
from detexport.layers import ASPP


def test_the_branches_are_joined_by_a_projection() -> None:
    torch.manual_seed(0)
    aspp = ASPP(4, 6, [2, 3, 4], norm="BN", activation=F.relu).eval()
    x = torch.randn(2, 4, 9, 8)
    branches = [F.relu(aspp.convs[0].norm(F.conv2d(x, aspp.convs[0].weight)))]
    for conv, dilation in zip(aspp.convs[1:4], (2, 3, 4), strict=True):
        branches.append(F.relu(conv.norm(F.conv2d(x, conv.weight, padding=dilation, dilation=dilation))))
    pooled = aspp.convs[4][1]
    mean = F.relu(F.conv2d(x.mean(dim=(2, 3), keepdim=True), pooled.weight, pooled.bias))
    branches.append(mean.expand(-1, -1, 9, 8))
    expected = F.relu(aspp.project.norm(F.conv2d(torch.cat(branches, dim=1), aspp.project.weight)))
    torch.testing.assert_close(aspp(x), expected)


def test_pooling_with_a_kernel_needs_a_map_of_its_multiple() -> None:
    aspp = ASPP(4, 6, [2, 3, 4], norm="", activation=F.relu, pool_kernel_size=(4, 4)).eval()
    assert aspp(torch.randn(1, 4, 8, 12)).shape == (1, 6, 8, 12)
    with pytest.raises(ConfigError, match="does not fit the pooling"):
        aspp(torch.randn(1, 4, 8, 10))


def test_names_and_variants() -> None:
    separable = ASPP(
        4, 6, [2, 3, 4], norm="LN", activation=F.relu, use_depthwise_separable_conv=True, dropout=0.5
    )
    assert {
        "convs.1.depthwise.norm.weight",
        "convs.3.pointwise.weight",
        "convs.4.1.bias",
        "project.weight",
    } <= set(separable.state_dict())
    x = torch.randn(1, 4, 8, 8)
    assert (separable.train()(x) == 0).any()
    assert torch.equal(separable.eval()(x), separable(x))
    with pytest.raises(ConfigError, match="three dilations"):
        ASPP(4, 6, [2, 3], norm="", activation=F.relu)
