"""MViTv2 (Li et al. 2022, arXiv:2112.01526): a vision transformer whose attention pools its tokens.

Shapes: images are (N, C, H, W), tokens (N, H', W', D); ``scale{k}`` has the stride 2**k, for patches of the
stride 4.
"""

from collections.abc import Sequence
from typing import Any, Dict

from torch import Tensor, nn

from detexport.errors import ConfigError
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
from detexport.modeling.backbone.backbone import Backbone, require_stages


class MultiScaleAttention(nn.Module):
    """Attention whose queries, keys and values are pooled by strided depthwise convolutions.

    Args:
        dim: channels of the input.
        dim_out: channels of the output.
        num_heads: number of heads.
        qkv_bias: whether queries, keys and values have a bias.
        norm_layer: class of the normalizations after the pooling.
        pool_kernel: kernel of the convolutions.
        stride_q: stride of the queries.
        stride_kv: stride of keys and values.
        residual_pooling: add the pooled queries to the output.
        window_size: side of the windows in tokens of the input; 0 for global attention.
        use_rel_pos: add relative position embeddings to the attention.
        rel_pos_zero_init: initialize the relative position embeddings with zeros.
        input_size: rows and columns of tokens of the input that the relative positions are made for.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        qkv_bias: bool = True,
        norm_layer: Layer = nn.LayerNorm,
        pool_kernel: tuple[int, int] = (3, 3),
        stride_q: int = 1,
        stride_kv: int = 1,
        residual_pooling: bool = True,
        window_size: int = 0,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        head_dim = dim_out // num_heads
        self.num_heads = num_heads
        self.scale = head_dim**-0.5
        self.qkv = nn.Linear(dim, 3 * dim_out, bias=qkv_bias)
        self.proj = nn.Linear(dim_out, dim_out)
        self.residual_pooling = residual_pooling
        if window_size and min(window_size // stride_q, window_size // stride_kv) < 1:
            raise ConfigError(
                "a window of MViT has no token after the pooling",
                got=f"window_size={window_size}, stride_q={stride_q}, stride_kv={stride_kv}",
                expected="strides of at most the size of the window",
                remedy="correct adaptive_window_size or adaptive_kv_stride",
            )
        # In tokens of the pooled maps.
        self.q_window = window_size // stride_q
        self.kv_window = window_size // stride_kv
        self.pool_q, self.norm_q = _pooling(head_dim, pool_kernel, stride_q), norm_layer(head_dim)
        self.pool_k, self.norm_k = _pooling(head_dim, pool_kernel, stride_kv), norm_layer(head_dim)
        self.pool_v, self.norm_v = _pooling(head_dim, pool_kernel, stride_kv), norm_layer(head_dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None or input_size[0] != input_size[1]:
                raise ConfigError(
                    "relative positions need the size of a square map",
                    got=f"input_size={input_size}",
                    expected="two equal numbers",
                    remedy="give input_size, or leave use_rel_pos at False",
                )
            length = 2 * max(input_size[0] // stride_q, input_size[0] // stride_kv) - 1
            self.rel_pos_h = position_table(length, head_dim, rel_pos_zero_init)
            self.rel_pos_w = position_table(length, head_dim, rel_pos_zero_init)
            self.relative_position = RelativePosition(stride_q, stride_kv)

    def _pool(self, x: Tensor, pool: nn.Module, norm: nn.Module) -> Tensor:
        """Pool a map of all heads (N * heads, H, W, C), and normalize it."""
        return norm(pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H / stride_q, W / stride_q, D')."""
        count, height, width, _ = x.shape
        heads = self.num_heads
        qkv = self.qkv(x).reshape(count, height, width, 3, heads, -1).permute(3, 0, 4, 1, 2, 5)
        q, k, v = qkv.reshape(3, count * heads, height, width, -1).unbind(0)
        q = self._pool(q, self.pool_q, self.norm_q)
        k = self._pool(k, self.pool_k, self.norm_k)
        v = self._pool(v, self.pool_v, self.norm_v)
        height, width = q.shape[1], q.shape[2]
        rows, columns = 1, 1
        if self.q_window > 0:
            q, rows, columns = window_partition(q, self.q_window)
            k, _, _ = window_partition(k, self.kv_window)
            v, _, _ = window_partition(v, self.kv_window)
        out = self._attend(q, k, v)
        if self.residual_pooling:
            out = out + q
        if self.q_window > 0:
            out = window_unpartition(out, rows, columns, height, width)
        out = out.reshape(count, heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.proj(out.reshape(count, height, width, -1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the values weighted by attention, (B, Qh, Qw, C); k and v are (B, Kh, Kw, C)."""
        attention = (q.flatten(1, 2) * self.scale) @ k.flatten(1, 2).transpose(-2, -1)
        if self.use_rel_pos:
            terms = relative_logits(
                q,
                self.relative_position(self.rel_pos_h, q[0, :, 0, 0], k[0, :, 0, 0]),
                self.relative_position(self.rel_pos_w, q[0, 0, :, 0], k[0, 0, :, 0]),
            )
            attention = attention + terms.flatten(3, 4).flatten(1, 2)
        return (attention.softmax(dim=-1) @ v.flatten(1, 2)).reshape(q.shape)


def _pooling(channels: int, kernel: tuple[int, int], stride: int) -> nn.Conv2d:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(channels, channels, kernel, stride=stride, padding=padding, groups=channels, bias=False)


class MultiScaleBlock(nn.Module):
    """Attention with pooling, and an MLP; a block may reduce the resolution and widen the channels.

    Args:
        dim: channels of the input.
        dim_out: channels of the output.
        num_heads: number of heads.
        mlp_ratio: hidden channels of the MLP, relative to ``dim_out``.
        drop_path: rate of stochastic depth.
        norm_layer: class of the normalizations.
        act_layer: class of the activation.
        stride_q: stride of the block.
        **attention: see ``MultiScaleAttention``.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        stride_q: int = 1,
        **attention: Any,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = MultiScaleAttention(
            dim, dim_out, num_heads, norm_layer=norm_layer, stride_q=stride_q, **attention
        )
        self.drop_path = stochastic_depth(drop_path)
        self.norm2 = norm_layer(dim_out)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio), act_layer)
        self.proj = nn.Linear(dim, dim_out) if dim != dim_out else None
        self.pool_skip = (
            nn.MaxPool2d(stride_q + 1, stride_q, padding=(stride_q + 1) // 2) if stride_q > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, H, W, D) to (N, H / stride_q, W / stride_q, D')."""
        normed = self.norm1(x)
        skip = x if self.proj is None else self.proj(normed)
        if self.pool_skip is not None:
            skip = self.pool_skip(skip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = skip + self.drop_path(self.attn(normed))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MViT(Backbone):
    """MViTv2: the feature maps ``scale2`` .. ``scale5``, each of twice the stride of the one before.

    The last block of every stage but the first has global attention, the others window attention.

    Args:
        img_size: side in px of the image that the relative positions are made for.
        patch_kernel: kernel of the convolution from the image to tokens.
        patch_stride: stride of that convolution.
        patch_padding: padding of that convolution.
        in_chans: channels of the image.
        embed_dim: channels of the first stage; each later stage doubles them.
        depth: number of blocks.
        num_heads: heads of the first stage; each later stage doubles them.
        last_block_indexes: the last block of each stage.
        qkv_pool_kernel: kernel of the pooling of queries, keys and values.
        adaptive_kv_stride: stride of keys and values in the first stage; each later stage halves it.
        adaptive_window_size: side in tokens of the windows of the first stage; each later stage halves it.
        residual_pooling: add the pooled queries to the output of the attention.
        mlp_ratio: hidden channels of the MLPs, relative to those of the block.
        qkv_bias: whether queries, keys and values have a bias.
        drop_path_rate: rate of stochastic depth of the last block; it grows linearly from 0.
        norm_layer: class of the normalizations.
        act_layer: class of the activations.
        use_abs_pos: add absolute position embeddings to the tokens.
        use_rel_pos: add relative position embeddings to the attention.
        rel_pos_zero_init: initialize the relative position embeddings with zeros.
        use_act_checkpoint: in training, recompute the blocks in the backward pass to save memory.
        pretrain_img_size: side in px of the images that the absolute positions are made for.
        pretrain_use_cls_token: whether the absolute positions include that of a class token.
        out_features: names of the feature maps.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_kernel: tuple[int, int] = (7, 7),
        patch_stride: tuple[int, int] = (4, 4),
        patch_padding: tuple[int, int] = (3, 3),
        in_chans: int = 3,
        embed_dim: int = 96,
        depth: int = 16,
        num_heads: int = 1,
        last_block_indexes: Sequence[int] = (0, 2, 11, 15),
        qkv_pool_kernel: tuple[int, int] = (3, 3),
        adaptive_kv_stride: int = 4,
        adaptive_window_size: int = 56,
        residual_pooling: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer: Layer = nn.LayerNorm,
        act_layer: Layer = nn.GELU,
        use_abs_pos: bool = False,
        use_rel_pos: bool = True,
        rel_pos_zero_init: bool = True,
        use_act_checkpoint: bool = False,
        pretrain_img_size: int = 224,
        pretrain_use_cls_token: bool = True,
        out_features: Sequence[str] = ("scale2", "scale3", "scale4", "scale5"),
    ) -> None:
        super().__init__()
        self.pretrain_use_cls_token = pretrain_use_cls_token
        self.use_act_checkpoint = use_act_checkpoint
        self.patch_embed = PatchEmbed(
            (patch_kernel[0], patch_kernel[1]),
            (patch_stride[0], patch_stride[1]),
            (patch_padding[0], patch_padding[1]),
            in_chans,
            embed_dim,
        )
        self.pos_embed: nn.Parameter | None = None
        if use_abs_pos:
            tokens = (pretrain_img_size // patch_stride[0]) * (pretrain_img_size // patch_stride[1])
            self.pos_embed = position_embedding(tokens, pretrain_use_cls_token, embed_dim)
        stage, stride = 2, patch_stride[0]
        self._out_features = list(out_features)
        self._out_feature_channels: dict[str, int] = {}
        self._out_feature_strides: dict[str, int] = {}
        self.stage_of_block: dict[int, str] = {}
        stages: list[str] = []
        self.blocks = nn.ModuleList()
        rows, columns = img_size // patch_stride[0], img_size // patch_stride[1]
        window, stride_kv = adaptive_window_size, adaptive_kv_stride
        dim, dim_out = embed_dim, embed_dim
        last = list(last_block_indexes)
        for index, rate in enumerate(depth_rates(drop_path_rate, depth)):
            starts_stage = index - 1 in last
            self.blocks.append(
                MultiScaleBlock(
                    dim,
                    dim_out,
                    num_heads,
                    mlp_ratio=mlp_ratio,
                    drop_path=rate,
                    norm_layer=norm_layer,
                    act_layer=act_layer,
                    qkv_bias=qkv_bias,
                    pool_kernel=(qkv_pool_kernel[0], qkv_pool_kernel[1]),
                    stride_q=2 if starts_stage else 1,
                    # A global block between stages pools twice as much.
                    stride_kv=2 * stride_kv if index in last[1:3] else stride_kv,
                    residual_pooling=residual_pooling,
                    window_size=0 if index in last[1:] else window,
                    use_rel_pos=use_rel_pos,
                    rel_pos_zero_init=rel_pos_zero_init,
                    input_size=(rows, columns),
                )
            )
            dim = dim_out
            if index in last:
                name = f"scale{stage}"
                stages.append(name)
                if name in self._out_features:
                    self.stage_of_block[index] = name
                    self._out_feature_channels[name] = dim_out
                    self._out_feature_strides[name] = stride
                    self.add_module(f"{name}_norm", norm_layer(dim_out))
                dim_out, num_heads = 2 * dim_out, 2 * num_heads
                stride_kv = max(stride_kv // 2, 1)
                stage, stride = stage + 1, 2 * stride
            if starts_stage:
                window, rows, columns = window // 2, rows // 2, columns // 2
        require_stages(out_features, stages, "MViT")
        self.apply(init_transformer)

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """Return the chosen feature maps (N, D, H / stride, W / stride) by name, for images (N, C, H, W)."""
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + absolute_positions(self.pos_embed, self.pretrain_use_cls_token, x)
        outputs: Dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            x = run_block(block, x, self.use_act_checkpoint)
            if index in self.stage_of_block:
                name = self.stage_of_block[index]
                outputs[name] = getattr(self, f"{name}_norm")(x).permute(0, 3, 1, 2)
        return outputs
