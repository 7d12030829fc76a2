import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d, get_norm
from detexport.layers.norm import GroupNorm


def test_an_unfilled_frozen_norm_is_the_identity() -> None:
    x = torch.randn(2, 7, 5, 5) * 100
    torch.testing.assert_close(FrozenBatchNorm2d(7)(x), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_frozen_norm_equals_batch_norm_in_eval(eps: float) -> None:
    torch.manual_seed(0)
    reference = nn.BatchNorm2d(6, eps=eps).eval()
    frozen = FrozenBatchNorm2d(6, eps=eps)
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = torch.rand(6) + 0.1
        getattr(reference, name).data.copy_(value)
        getattr(frozen, name).copy_(value)
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(frozen(x), reference(x))
    frozen.train()
    assert torch.equal(frozen(x), reference(x))
    assert not list(frozen.parameters())
    assert sorted(frozen.state_dict()) == ["bias", "running_mean", "running_var", "weight"]


@pytest.mark.parametrize(
    ("name", "kind"), [("BN", nn.BatchNorm2d), ("FrozenBN", FrozenBatchNorm2d), ("GN", GroupNorm)]
)
def test_norms_by_name(name: str, kind: type) -> None:
    assert type(get_norm(name, 64)) is kind


def test_no_name_is_no_norm() -> None:
    assert get_norm("", 8) is None


def test_a_group_norm_has_32_groups() -> None:
    norm = get_norm("GN", 64)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == 32
    with pytest.raises(ConfigError, match="over 48 channels"):
        get_norm("GN", 48)


def test_a_group_norm_is_torchs_and_takes_one_pixel() -> None:
    norm = get_norm("GN", 64)
    assert isinstance(norm, GroupNorm)
    nn.init.normal_(norm.weight)
    image = torch.randn(2, 64, 5, 3)
    assert torch.equal(norm(image), nn.GroupNorm.forward(norm, image))
    pixel = GroupNorm(32, 32)(torch.randn(1, 32, 1, 1))
    torch.testing.assert_close(pixel, torch.zeros(1, 32, 1, 1), rtol=0, atol=1e-3)


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'SyncBN'.*BN, FrozenBN, GN"):
        get_norm("SyncBN", 8)
