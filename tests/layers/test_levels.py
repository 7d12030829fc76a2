import pytest
import torch
from torch import nn

from detexport.layers.levels import LevelsBatchNorm, LevelsConv2d, LevelsReLU

LEVELS = [torch.randn(2, 3, size, size + 1) * size for size in (2, 4)]


def test_one_convolution_for_all_levels() -> None:
    conv, plain = LevelsConv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
    plain.load_state_dict(conv.state_dict())
    for found, level in zip(LevelsReLU()(conv(LEVELS)), LEVELS, strict=True):
        assert torch.equal(found, plain(level).relu())


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_statistics_of_each_level_and_one_affine_transform(norm: str) -> None:
    layer = LevelsBatchNorm(norm, 2, 3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    for found, level in zip(layer(LEVELS), LEVELS, strict=True):
        mean, variance = level.mean(dim=(0, 2, 3)), level.var(dim=(0, 2, 3), unbiased=False)
        centred = (level - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        expected = centred * layer.weight[:, None, None] + layer.bias[:, None, None]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(layer[0].running_var, layer[1].running_var)
    assert {"weight", "bias", "0.running_mean", "1.running_var"} <= set(layer.state_dict())
    assert "0.weight" not in layer.state_dict()
    scripted = torch.jit.script(layer.eval())
    assert all(torch.equal(a, b) for a, b in zip(scripted(LEVELS), layer(LEVELS), strict=True))
