"""Swin transformer (Liu et al. 2021, arXiv:2103.14030): attention in windows that shift from block to block.

Shapes: images are (N, C, H, W), tokens (N, H', W', D), windows of S x S tokens.
"""

from collections.abc import Sequence
from typing import Any, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.modeling.backbone.attention import (
    INIT_STD,
    Layer,
    Mlp,
    PatchEmbed,
    depth_rates,
    init_transformer,
    positions_along,
    run_block,
    stochastic_depth,
    window_partition,
    window_unpartition,
)
from detexport.modeling.backbone.backbone import Backbone

MASKED = -100.0
"""Added to the logit of two tokens in one window that are not neighbours in the image."""


def relative_position_index(window_size: int) -> Tensor:
    """Return the row of the table of biases for each pair of tokens of a window, (S * S, S * S) int64."""
    side = torch.arange(window_size)
    rows, columns = torch.meshgrid(side, side, indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    vertical = rows[:, None] - rows[None, :] + window_size - 1
    horizontal = columns[:, None] - columns[None, :] + window_size - 1
    return vertical * (2 * window_size - 1) + horizontal


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a learned bias for each distance.

    Args:
        dim: channels of the tokens.
        window_size: S.
        num_heads: number of heads.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the queries; by default 1 / sqrt of a head's channels.
        attn_drop: rate of dropout of the attention.
        proj_drop: rate of dropout of the output.
    """

    relative_position_index: Tensor

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        table = torch.zeros((2 * window_size - 1) ** 2, num_heads)
        self.relative_position_bias_table = nn.Parameter(nn.init.trunc_normal_(table, std=INIT_STD))
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Map windows (B, S * S, D) to the same shape.

        Args:
            x: the windows of an image follow one another.
            mask: (windows of an image, S * S, S * S), added to the logits.
        """
        count, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        attention = attention + bias.reshape(tokens, tokens, -1).permute(2, 0, 1)
        if mask is not None:
            windows = mask.shape[0]
            attention = attention.reshape(-1, windows, self.num_heads, tokens, tokens) + mask[:, None]
            attention = attention.reshape(-1, self.num_heads, tokens, tokens)
        attention = self.attn_drop(attention.softmax(dim=-1))
        out = (attention @ v).transpose(1, 2).reshape(count, tokens, dim)
        return self.proj_drop(self.proj(out))


class SwinTransformerBlock(nn.Module):
    """Attention in windows, shifted or not, and an MLP.

    Args:
        dim: channels of the tokens.
        num_heads: number of heads.
        window_size: S.
        shift_size: tokens by which the windows are shifted.
        mlp_ratio: hidden channels of the MLP, relative to ``dim``.
        drop: rate of dropout of the outputs.
        drop_path: rate of stochastic depth.
        act_layer: class of the activation.
        norm_layer: class of the normalizations.
        **attention: see ``WindowAttention``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Layer = nn.GELU,
        norm_layer: Layer = nn.LayerNorm,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift_size = shift_size
        self.norm1 = norm_layer(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, proj_drop=drop, **attention)
        self.drop_path = stochastic_depth(drop_path)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer, drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D)."""
        height, width = x.shape[1], x.shape[2]
        size, shift = self.window_size, self.shift_size
        # The shift is cyclic over the padded map.
        bottom, right = -height % size, -width % size
        padded = F.pad(self.norm1(x), [0, 0, 0, right, 0, bottom])
        mask: Optional[Tensor] = None
        if shift > 0:
            padded = torch.roll(padded, shifts=(-shift, -shift), dims=(1, 2))
            mask = shift_mask(padded, size, shift)
        windows, rows, columns = window_partition(padded, size)
        out = self.attn(windows.flatten(1, 2), mask).reshape(windows.shape)
        out = window_unpartition(out, rows, columns, rows * size, columns * size)
        if shift > 0:
            out = torch.roll(out, shifts=(shift, shift), dims=(1, 2))
        x = x + self.drop_path(out[:, :height, :width])
        return x + self.drop_path(self.mlp(self.norm2(x)))


def shift_mask(shifted: Tensor, window_size: int, shift_size: int) -> Tensor:
    """Return the mask that separates tokens which only the cyclic shift brought into one window.

    Args:
        shifted: (N, H, W, D), padded to whole windows, of which only the size is used.
        window_size: S.
        shift_size: tokens by which the map is shifted.

    Returns:
        (windows of an image, S * S, S * S), 0 or ``MASKED``.
    """
    parts = [_parts(line, window_size, shift_size) for line in (shifted[0, :, 0, 0], shifted[0, 0, :, 0])]
    regions = 3 * parts[0][:, None] + parts[1][None, :]
    windows, _, _ = window_partition(regions[None, :, :, None], window_size)
    region = windows.flatten(1)
    return (region[:, None, :] != region[:, :, None]) * MASKED


def _parts(line: Tensor, window_size: int, shift_size: int) -> Tensor:
    """Return 0 before the last window, 1 in it, 2 in the cells that the shift moved there."""
    size, position = line.shape[0], positions_along(line)
    return (position >= size - window_size).float() + (position >= size - shift_size).float()


class PatchMerging(nn.Module):
    """Concatenate the tokens of each 2 x 2 square, and project them to twice the channels.

    Args:
        dim: channels of the input.
        norm_layer: class of the normalization.
    """

    def __init__(self, dim: int, norm_layer: Layer = nn.LayerNorm) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H / 2, W / 2, 2 D), rounded up."""
        count, height, width, dim = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        x = F.pad(x, [0, 0, 0, 2 * columns - width, 0, 2 * rows - height])
        squares = x.reshape(count, rows, 2, columns, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(squares.reshape(count, rows, columns, 4 * dim)))


class SwinStage(nn.Module):
    """The blocks of a stage, every second one with shifted windows, and the downsampling after them.

    Args:
        blocks: of the stage.
        downsample: from this stage to the next; None for the last.
        use_checkpoint: in training, recompute the blocks in the backward pass to save memory.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], downsample: PatchMerging | None, use_checkpoint: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D): the blocks alone."""
        for block in self.blocks:
            x = run_block(block, x, self.use_checkpoint)
        return x


class PatchPartition(PatchEmbed):
    """A ``PatchEmbed`` of an image padded to whole patches, with an optional normalization.

    Args:
        patch_size: side of a patch in px.
        in_chans: channels of the image.
        embed_dim: channels of the tokens.
        norm_layer: class of the normalization; None for none.
    """

    def __init__(
        self, patch_size: int = 4, in_chans: int = 3, embed_dim: int = 96, norm_layer: Layer | None = None
    ) -> None:
        patch = (patch_size, patch_size)
        super().__init__(patch, patch, in_chans=in_chans, embed_dim=embed_dim)
        self.patch_size = patch_size
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to tokens (N, H', W', D)."""
        size = self.patch_size
        height, width = x.shape[2], x.shape[3]
        return self.norm(super().forward(F.pad(x, [0, -width % size, 0, -height % size])))


class SwinTransformer(Backbone):
    """Swin transformer: the feature maps ``p0``, ``p1``, ... of the strides 4, 8, ...

    Args:
        pretrain_img_size: side in px of the images that absolute positions are made for.
        patch_size: side of a patch in px.
        in_chans: channels of the image.
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: number of blocks of each stage.
        num_heads: heads of each stage.
        window_size: side of a window in tokens.
        mlp_ratio: hidden channels of the MLPs, relative to those of the stage.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the queries; by default 1 / sqrt of a head's channels.
        drop_rate: rate of dropout.
        attn_drop_rate: rate of dropout of the attention.
        drop_path_rate: rate of stochastic depth of the last block; it grows linearly from 0.
        norm_layer: class of the normalizations.
        ape: add absolute position embeddings to the tokens.
        patch_norm: normalize the tokens of the patches.
        out_indices: numbers of the stages whose outputs are feature maps.
        frozen_stages: -1 trains everything; 0 freezes the patches' layer, 1 also the absolute positions, k
            also the first k - 1 stages.
        use_checkpoint: in training, recompute the blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        pretrain_img_size: int | Sequence[int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: Layer = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.patch_embed = PatchPartition(patch_size, in_chans, embed_dim, norm_layer if patch_norm else None)
        self.absolute_pos_embed: nn.Parameter | None = None
        if ape:
            sides = [pretrain_img_size] * 2 if isinstance(pretrain_img_size, int) else pretrain_img_size
            embedding = torch.zeros(1, embed_dim, sides[0] // patch_size, sides[1] // patch_size)
            self.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(embedding, std=INIT_STD))
        self.pos_drop = nn.Dropout(drop_rate)
        self.layers = nn.ModuleList()
        rates = iter(depth_rates(drop_path_rate, sum(depths)))
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        for stage, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
            blocks = [
                SwinTransformerBlock(
                    dim,
                    num_heads[stage],
                    window_size=window_size,
                    shift_size=0 if index % 2 == 0 else window_size // 2,
                    mlp_ratio=mlp_ratio,
                    drop=drop_rate,
                    drop_path=next(rates),
                    norm_layer=norm_layer,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    attn_drop=attn_drop_rate,
                )
                for index in range(depth)
            ]
            last = stage == len(depths) - 1
            downsample = None if last else PatchMerging(dim, norm_layer)
            self.layers.append(SwinStage(blocks, downsample, use_checkpoint))
        for stage in self.out_indices:
            self.add_module(f"norm{stage}", norm_layer(dims[stage]))
        self._out_features = [f"p{stage}" for stage in self.out_indices]
        self._out_feature_channels = {f"p{stage}": dims[stage] for stage in self.out_indices}
        self._out_feature_strides = {f"p{stage}": patch_size * 2**stage for stage in self.out_indices}
        self.apply(init_transformer)
        self._freeze()

    def _freeze(self) -> None:
        frozen: list[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen.append(self.patch_embed)
        if self.frozen_stages >= 1 and self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad = False
        if self.frozen_stages >= 2:
            frozen += [self.pos_drop, *list(self.layers)[: self.frozen_stages - 1]]
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False

    def train(self, mode: bool = True) -> "SwinTransformer":
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the chosen feature maps (N, D, H / stride, W / stride) by name, for images (N, C, H, W)."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            size = (x.shape[1], x.shape[2])
            positions = F.interpolate(self.absolute_pos_embed, size=size, mode="bicubic")
            x = x + positions.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        outputs: Dict[str, Tensor] = {}
        for stage, layer in enumerate(self.layers):
            x = layer(x)
            if stage in self.out_indices:
                outputs[f"p{stage}"] = getattr(self, f"norm{stage}")(x).permute(0, 3, 1, 2)
            downsample: Any = layer.downsample
            if downsample is not None:
                x = downsample(x)
        return outputs
