"""MViTv2: pooled attention, and its stages."""

import pytest
import torch
from torch import nn

from detexport.errors import ConfigError
from detexport.modeling import MViT
from detexport.modeling.backbone.mvit import MultiScaleAttention, MultiScaleBlock


def small_mvit(**changes: object) -> MViT:
    options = {"img_size": 64, "embed_dim": 8, "depth": 6, "last_block_indexes": (0, 2, 4, 5)}
    options |= {"adaptive_window_size": 8}
    return MViT(**{**options, **changes})  # type: ignore[arg-type]


def test_stages_of_blocks() -> None:
    net = small_mvit()
    attentions = [block.attn for block in net.blocks]
    assert [attention.num_heads for attention in attentions] == [1, 2, 2, 4, 4, 8]
    assert [attention.pool_q.stride[0] for attention in attentions] == [1, 2, 1, 2, 1, 2]
    assert [attention.pool_k.stride[0] for attention in attentions] == [4, 2, 4, 1, 2, 1]
    # The last blocks of the later stages attend to the whole map.
    assert [attention.q_window for attention in attentions] == [8, 4, 0, 2, 0, 0]
    assert [attention.kv_window for attention in attentions] == [2, 4, 0, 4, 0, 0]
    assert [len(attention.rel_pos_h) for attention in attentions] == [31, 15, 15, 15, 7, 7]


def test_feature_maps_and_their_shapes() -> None:
    net = small_mvit(use_abs_pos=True, pretrain_img_size=32)
    features = net(torch.rand(1, 3, 50, 70))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "scale2": (1, 8, 13, 18),
        "scale3": (1, 16, 7, 9),
        "scale4": (1, 32, 4, 5),
        "scale5": (1, 64, 2, 3),
    }
    assert [one.stride for one in net.output_shape().values()] == [4, 8, 16, 32]
    sum(value.sum() for value in features.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_widening_block_projects_the_normed_input() -> None:
    block = MultiScaleBlock(4, 8, 2, stride_q=2).eval()
    for name in ("attn.proj", "mlp.fc2"):
        nn.init.zeros_(block.get_submodule(name).weight)
        nn.init.zeros_(block.get_submodule(name).bias)
    x = torch.rand(1, 6, 6, 4)
    skip = block.proj(block.norm1(x)).permute(0, 3, 1, 2)
    expected = nn.functional.max_pool2d(skip, 3, 2, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), expected)


def test_a_window_of_the_whole_map_is_global() -> None:
    torch.manual_seed(0)
    windowed = MultiScaleAttention(8, 8, 2, stride_kv=2, window_size=4, use_rel_pos=True, input_size=(4, 4))
    whole = MultiScaleAttention(8, 8, 2, stride_kv=2, use_rel_pos=True, input_size=(4, 4))
    whole.load_state_dict(windowed.state_dict())
    x = torch.rand(2, 4, 4, 8)
    torch.testing.assert_close(windowed(x), whole(x))


def test_padded_keys_are_zeros() -> None:
    attention = MultiScaleAttention(8, 8, 1, window_size=4, residual_pooling=False).eval()
    attention.proj = nn.Identity()  # type: ignore[assignment]
    x = torch.rand(1, 1, 1, 8)
    q, k, v = attention.qkv(x).reshape(1, 3, 8, 1, 1).unbind(1)
    q, k, v = (
        norm(pool(one)[..., 0, 0])
        for one, pool, norm in (
            (q, attention.pool_q, attention.norm_q),
            (k, attention.pool_k, attention.norm_k),
            (v, attention.pool_v, attention.norm_v),
        )
    )
    logit = (q * k).sum() * 8**-0.5
    weight = logit.exp() / (logit.exp() + 15)
    torch.testing.assert_close(attention(x).flatten(), (weight * v).flatten())


def test_names_count_the_stages_whatever_the_patches() -> None:
    shapes = small_mvit(patch_kernel=(9, 9), patch_stride=(8, 8), patch_padding=(4, 4)).output_shape()
    assert [(name, shape.stride) for name, shape in shapes.items()] == [
        ("scale2", 8), ("scale3", 16), ("scale4", 32), ("scale5", 64),
    ]  # fmt: skip


def test_windows_smaller_than_the_stride_are_refused() -> None:
    with pytest.raises(ConfigError, match="window_size=2, stride_q=1, stride_kv=4"):
        small_mvit(adaptive_window_size=2)
    with pytest.raises(ConfigError, match="square map"):
        small_mvit(patch_stride=(4, 8))


def test_unknown_stages() -> None:
    with pytest.raises(ConfigError, match="scale6"):
        small_mvit(out_features=("scale2", "scale6"))
    with pytest.raises(ConfigError, match="square map"):
        MultiScaleAttention(8, 8, 2, use_rel_pos=True, input_size=(4, 8))


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (33, 40)])
def test_a_trace_accepts_any_size(size: tuple[int, int]) -> None:
    net = small_mvit(rel_pos_zero_init=False).eval()
    with torch.no_grad():
        traced = torch.jit.trace(net, torch.rand(1, 3, 80, 112), check_trace=False, strict=False)
        x = torch.rand(1, 3, *size)
        for name, value in net(x).items():
            assert torch.equal(traced(x)[name], value)
