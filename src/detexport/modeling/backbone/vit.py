"""Plain vision transformer and its feature pyramid for detection (Li et al. 2022, arXiv:2203.16527).

Shapes: images are (N, C, H, W), tokens (N, H', W', D); ``p{k}`` has the stride 2**k.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Dict, cast

import torch
from torch import Tensor, nn

from detexport.errors import ConfigError
from detexport.layers import CNNBlockBase, get_norm
from detexport.layers.conv import Conv2d, init_conv_msra
from detexport.modeling.backbone.attention import (
    Layer,
    Mlp,
    PatchEmbed,
    RelativePosition,
    absolute_positions,
    depth_rates,
    init_transformer,
    position_embedding,
    position_table,
    relative_logits,
    run_block,
    stochastic_depth,
    window_partition,
    window_unpartition,
)
from detexport.modeling.backbone.backbone import Backbone

Norm = str | Callable[[int], nn.Module]


class Attention(nn.Module):
    """Attention among all tokens of a map, with optional relative positions.

    Args:
        dim: channels of the tokens.
        num_heads: number of heads.
        qkv_bias: whether queries, keys and values have a bias.
        use_rel_pos: add relative position embeddings to the attention.
        rel_pos_zero_init: initialize the relative position embeddings with zeros.
        input_size: rows and columns of tokens that the relative positions are made for.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None:
                raise ConfigError(
                    "relative positions need the size of the map",
                    got="input_size=None",
                    expected="rows and columns of tokens",
                    remedy="give input_size, or leave use_rel_pos at False",
                )
            self.rel_pos_h = position_table(2 * input_size[0] - 1, head_dim, rel_pos_zero_init)
            self.rel_pos_w = position_table(2 * input_size[1] - 1, head_dim, rel_pos_zero_init)
            self.relative_position = RelativePosition()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D)."""
        count, height, width, _ = x.shape
        heads = self.num_heads
        qkv = self.qkv(x).reshape(count, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, count * heads, height * width, -1).unbind(0)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        if self.use_rel_pos:
            rows, columns = x[0, :, 0, 0], x[0, 0, :, 0]
            terms = relative_logits(
                q.reshape(count * heads, height, width, -1),
                self.relative_position(self.rel_pos_h, rows, rows),
                self.relative_position(self.rel_pos_w, columns, columns),
            )
            attention = attention + terms.reshape(count * heads, height * width, height * width)
        out = attention.softmax(dim=-1) @ v
        out = out.reshape(count, heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.proj(out.reshape(count, height, width, -1))


class ResBottleneckBlock(CNNBlockBase):
    """1x1, 3x3, 1x1 convolutions, each normalized, added to the input; initialized as the identity.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bottleneck_channels: channels of the 3x3 convolution.
        norm: name of the normalization.
        act_layer: class of the activation after the first two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bottleneck_channels: int,
        norm: Norm = "LN",
        act_layer: Layer = nn.GELU,
    ) -> None:
        super().__init__(in_channels, out_channels, 1)
        self.conv1 = Conv2d(in_channels, bottleneck_channels, 1, bias=False)
        self.norm1: Any = get_norm(norm, bottleneck_channels)
        self.act1 = act_layer()
        self.conv2 = Conv2d(bottleneck_channels, bottleneck_channels, 3, padding=1, bias=False)
        self.norm2: Any = get_norm(norm, bottleneck_channels)
        self.act2 = act_layer()
        self.conv3 = Conv2d(bottleneck_channels, out_channels, 1, bias=False)
        self.norm3 = cast("Any", get_norm(norm, out_channels))
        for conv in (self.conv1, self.conv2, self.conv3):
            init_conv_msra(conv)
        nn.init.zeros_(self.norm3.weight)
        nn.init.zeros_(self.norm3.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        return x + self.norm3(self.conv3(out))


class Block(nn.Module):
    """Window or global attention, an MLP, and an optional convolutional block.

    Args:
        dim: channels of the tokens.
        num_heads: number of heads.
        mlp_ratio: hidden channels of the MLP, relative to ``dim``.
        drop_path: rate of stochastic depth.
        norm_layer: class of the normalizations.
        act_layer: class of the activation.
        window_size: side of the windows in tokens; 0 for global attention.
        use_residual_block: add a ``ResBottleneckBlock`` at the end.
        input_size: rows and columns of the map that the relative positions are made for.
        **attention: see ``Attention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        window_size: int = 0,
        use_residual_block: bool = False,
        input_size: tuple[int, int] | None = None,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        size = (window_size, window_size) if window_size else input_size
        self.attn = Attention(dim, num_heads, input_size=size, **attention)
        self.drop_path = stochastic_depth(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size
        self.residual = (
            ResBottleneckBlock(dim, dim, dim // 2, act_layer=act_layer) if use_residual_block else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D)."""
        out = self.norm1(x)
        if self.window_size > 0:
            windows, rows, columns = window_partition(out, self.window_size)
            out = window_unpartition(self.attn(windows), rows, columns, x.shape[1], x.shape[2])
        else:
            out = self.attn(out)
        x = x + self.drop_path(out)
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.residual is not None:
            x = self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x


class ViT(Backbone):
    """A plain vision transformer: one feature map of the stride of its patches.

    Args:
        img_size: side in px of the image that the relative positions of global attention are made for.
        patch_size: side of a patch in px.
        in_chans: channels of the image.
        embed_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: heads of each block.
        mlp_ratio: hidden channels of the MLPs, relative to ``embed_dim``.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path_rate: rate of stochastic depth of the last block; it grows linearly from 0.
        norm_layer: class of the normalizations.
        act_layer: class of the activations.
        use_abs_pos: add absolute position embeddings to the tokens.
        use_rel_pos: add relative position embeddings to the attention.
        rel_pos_zero_init: initialize the relative position embeddings with zeros.
        window_size: side in tokens of the windows of ``window_block_indexes``.
        window_block_indexes: blocks with window attention; the others have global attention.
        residual_block_indexes: blocks that end with a ``ResBottleneckBlock``.
        use_act_checkpoint: in training, recompute the blocks in the backward pass to save memory.
        pretrain_img_size: side in px of the images that the absolute positions are made for.
        pretrain_use_cls_token: whether the absolute positions include that of a class token.
        out_feature: name of the feature map.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        window_block_indexes: Sequence[int] = (),
        residual_block_indexes: Sequence[int] = (),
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_feature: str = "last_feat",
    ) -> None:
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = use_act_checkpoint
        patch = (patch_size, patch_size)
        self.patch_embed = PatchEmbed(patch, patch, in_chans=in_chans, embed_dim=embed_dim)
        self.pos_embed: nn.Parameter | None = None
        if use_abs_pos:
            tokens = (pretrain_img_size // patch_size) ** 2
            self.pos_embed = position_embedding(tokens, pretrain_use_cls_token, embed_dim)
        side = img_size // patch_size
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio=mlp_ratio,
                drop_path=rate,
                norm_layer=norm_layer,
                act_layer=act_layer,
                window_size=window_size if index in window_block_indexes else 0,
                use_residual_block=index in residual_block_indexes,
                input_size=(side, side),
                qkv_bias=qkv_bias,
                use_rel_pos=use_rel_pos,
                rel_pos_zero_init=rel_pos_zero_init,
            )
            for index, rate in enumerate(depth_rates(drop_path_rate, depth))
        )
        self._out_features = [out_feature]
        self._out_feature_channels = {out_feature: embed_dim}
        self._out_feature_strides = {out_feature: patch_size}
        self.apply(init_transformer)

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the feature map (N, D, H / patch, W / patch) by its name, for images (N, C, H, W)."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + absolute_positions(self.pos_embed, self.pretrain_use_cls_token, x)
        for block in self.blocks:
            x = run_block(block, x, self.use_act_checkpoint)
        return {self._out_features[0]: x.permute(0, 3, 1, 2)}


class SimpleFeaturePyramid(Backbone):
    """A pyramid whose levels are all computed from the last feature map of a plain backbone.

    Images are padded only to a square of ``square_pad``, not to a multiple of a stride.

    Args:
        net: network with the output ``in_feature``.
        in_feature: name of its output.
        out_channels: channels of every level.
        scale_factors: size of each level relative to ``in_feature``: 4, 2, 1 or 0.5, from fine to coarse.
        top_block: computes the levels above the last from its ``in_feature``.
        norm: name of the normalization.
        square_pad: side in px of the padded images; 0 for no padding.
    """

    def __init__(
        self,
        net: Any,
        in_feature: str,
        out_channels: int,
        scale_factors: Sequence[float],
        top_block: Any = None,
        norm: Norm = "LN",
        square_pad: int = 0,
    ) -> None:
        super().__init__()
        source = net.output_shape()[in_feature]
        self.net = net
        self.in_feature = in_feature
        self.top_block = top_block
        self.square_pad = square_pad
        strides = [_stride(source.stride, scale) for scale in scale_factors]
        self._stages = [int(math.log2(stride)) for stride in strides]
        for stage, scale in zip(self._stages, scale_factors, strict=True):
            self.add_module(f"simfp_{stage}", _level(source.channels, out_channels, scale, norm))
        names = [f"p{stage}" for stage in self._stages]
        if top_block is not None:
            last = self._stages[-1]
            for level in range(last + 1, last + 1 + top_block.num_levels):
                names.append(f"p{level}")
                strides.append(2**level)
        self._out_features = names
        self._out_feature_channels = dict.fromkeys(names, out_channels)
        self._out_feature_strides = dict(zip(names, strides, strict=True))

    @torch.jit.unused  # type: ignore[prop-decorator]
    @property
    def padding_constraints(self) -> dict[str, int]:
        """Return the side of the padded images."""
        return {"square_size": self.square_pad}

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the levels of the pyramid by name, from fine to coarse, for images (N, C, H, W)."""
        features = self.net(x)
        source = features[self.in_feature]
        outputs: Dict[str, Tensor] = {}
        for stage in self._stages:
            outputs[f"p{stage}"] = getattr(self, f"simfp_{stage}")(source)
        if self.top_block is not None:
            name = self.top_block.in_feature
            outputs.update(self.top_block(features[name] if name in features else outputs[name]))
        return outputs


def _stride(stride: int, scale: float) -> int:
    if scale not in (4.0, 2.0, 1.0, 0.5):
        raise ConfigError(
            "unsupported scale of a pyramid level",
            got=scale,
            expected="4, 2, 1 or 0.5",
            remedy="correct scale_factors",
        )
    level = stride / scale
    if level != int(level) or int(level) & (int(level) - 1):
        raise ConfigError(
            "the stride of a pyramid level must be a power of 2",
            got=f"{level:g}, a map of the stride {stride} scaled by {scale:g}",
            expected="1, 2, 4, 8, ...",
            remedy="correct scale_factors, or the stride of the backbone",
        )
    return int(level)


def _level(dim: int, out_channels: int, scale: float, norm: Norm) -> nn.Sequential:
    """Return the layers from the last feature map to a level of ``scale`` times its size."""
    layers: list[nn.Module] = []
    if scale == 4.0:
        between = get_norm(norm, dim // 2) or nn.Identity()
        layers += [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2), between, nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2))
        dim //= 4
    elif scale == 2.0:
        layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
        dim //= 2
    elif scale == 0.5:
        layers.append(nn.MaxPool2d(2, stride=2))
    layers.append(Conv2d(dim, out_channels, 1, norm=get_norm(norm, out_channels)))
    layers.append(Conv2d(out_channels, out_channels, 3, padding=1, norm=get_norm(norm, out_channels)))
    return nn.Sequential(*layers)


def get_vit_lr_decay_rate(name: str, lr_decay_rate: float = 1.0, num_layers: int = 12) -> float:
    """Return the factor of the learning rate of a parameter (layer-wise decay, Clark et al. 2020).

    Args:
        name: name of the parameter; those of the ViT start with ``backbone``.
        lr_decay_rate: factor from each block to the one before it.
        num_layers: number of blocks of the ViT.

    Returns:
        1 for the layers after the ViT, and for its residual blocks.
    """
    layers_after = 0
    if name.startswith("backbone"):
        if ".pos_embed" in name or ".patch_embed" in name:
            layers_after = num_layers + 1
        elif ".blocks." in name and ".residual." not in name:
            layers_after = num_layers - int(name.partition(".blocks.")[2].partition(".")[0])
    return lr_decay_rate**layers_after
