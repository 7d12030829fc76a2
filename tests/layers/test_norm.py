from collections.abc import Iterator

import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d, get_norm
from detexport.layers.norm import GroupNorm, LayerNorm


def test_a_new_frozen_norm_is_the_identity() -> None:
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
    ("name", "kind"),
    [
        ("BN", nn.BatchNorm2d),
        ("FrozenBN", FrozenBatchNorm2d),
        ("GN", GroupNorm),
        ("LN", LayerNorm),
        ("SyncBN", nn.BatchNorm2d),
        ("nnSyncBN", nn.BatchNorm2d),
        ("naiveSyncBN", nn.BatchNorm2d),
    ],
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


def test_a_group_norm_equals_torchs_and_accepts_one_pixel() -> None:
    norm = get_norm("GN", 64)
    assert isinstance(norm, GroupNorm)
    nn.init.normal_(norm.weight)
    image = torch.randn(2, 64, 5, 3)
    assert torch.equal(norm(image), nn.GroupNorm.forward(norm, image))
    pixel = GroupNorm(32, 32)(torch.randn(1, 32, 1, 1))
    torch.testing.assert_close(pixel, torch.zeros(1, 32, 1, 1), rtol=0, atol=1e-3)


def test_a_layer_norm_is_over_the_channels_of_each_pixel() -> None:
    norm = get_norm("LN", 5)
    assert isinstance(norm, LayerNorm)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    image = torch.randn(2, 5, 3, 4) * 3 + 7
    last = nn.functional.layer_norm(image.movedim(1, 3), (5,), norm.weight, norm.bias, eps=1e-6)
    torch.testing.assert_close(norm(image), last.movedim(3, 1))


@pytest.fixture
def two_processes() -> Iterator[None]:
    """Pretend that this process is one of two in a process group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("two_processes")
def test_processes_synchronize_and_their_state_dict_fits_one_process() -> None:
    several = get_norm("SyncBN", 6)
    assert type(several) is nn.SyncBatchNorm
    nn.init.normal_(several.weight)
    alone = nn.BatchNorm2d(6)
    alone.load_state_dict(several.state_dict())
    image = torch.randn(2, 6, 3, 3)
    assert torch.equal(several.eval()(image), alone.eval()(image))


def test_a_function_builds_a_custom_norm() -> None:
    norm = get_norm(lambda channels: nn.InstanceNorm2d(channels, affine=True), 7)
    assert isinstance(norm, nn.InstanceNorm2d)
    assert norm.num_features == 7


def test_an_unknown_name_is_reported_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'SynchBN'.*BN, FrozenBN, GN, LN, SyncBN"):
        get_norm("SynchBN", 8)
