"""Building blocks of vision transformers: windows, positions, and the layers of a block.

The tokens of an image are a map (N, H, W, C). Positions are counted on the maps themselves, so that height
and width stay free in a graph.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

Layer = Callable[..., nn.Module]

INIT_STD = 0.02
"""Standard deviation of the truncated normal distribution that initializes weights of transformers."""


def init_transformer(module: nn.Module) -> None:
    """Initialize a linear layer of a transformer; leave other modules as they are."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def stochastic_depth(rate: float) -> nn.Module:
    """Return stochastic depth (Huang et al. 2016) over the images of a batch; no parameters."""
    return StochasticDepth(rate, mode="row") if rate > 0 else nn.Identity()


def depth_rates(rate: float, depth: int) -> list[float]:
    """Return the rate of stochastic depth of each block: from 0 for the first to ``rate`` for the last."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]


def run_block(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """Run a block; in training with ``recompute``, keep only its input for the backward pass."""
    if recompute and block.training and torch.is_grad_enabled():
        result: Tensor = checkpoint(block, x, use_reentrant=False)
        return result
    out: Tensor = block(x)
    return out


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        dim: channels of the input and the output.
        hidden_dim: channels between the layers.
        act_layer: class of the activation.
        drop: rate of dropout after each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, act_layer: Layer = nn.GELU, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class PatchEmbed(nn.Module):
    """A convolution from the image to tokens; incomplete patches at the right and bottom are dropped.

    Args:
        kernel_size: of the convolution.
        stride: of the convolution, the size of a patch in px.
        padding: of the convolution.
        in_chans: channels of the image.
        embed_dim: channels of the tokens.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to tokens (N, H', W', D)."""
        return self.proj(x).permute(0, 2, 3, 1)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, int, int]:
    """Split a map into windows; it is padded by zeros at the right and bottom.

    Args:
        x: (N, H, W, C).
        window_size: S, side of a window.

    Returns:
        (N * rows * columns, S, S, C), and the numbers of rows and columns of windows.
    """
    count, height, width, channels = x.shape
    rows = (height + window_size - 1) // window_size
    columns = (width + window_size - 1) // window_size
    x = F.pad(x, [0, 0, 0, columns * window_size - width, 0, rows * window_size - height])
    x = x.reshape(count, rows, window_size, columns, window_size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, channels), rows, columns


def window_unpartition(windows: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    """Join windows to a map, and remove the padding.

    Args:
        windows: (N * rows * columns, S, S, C).
        rows: number of rows of windows.
        columns: number of columns of windows.
        height: H of the map.
        width: W of the map.

    Returns:
        (N, H, W, C).
    """
    side, channels = windows.shape[1], windows.shape[3]
    x = windows.reshape(-1, rows, columns, side, side, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * side, columns * side, channels)
    return x[:, :height, :width]


def positions_along(line: Tensor) -> Tensor:
    """Return 0, 1, ... for the cells of a row or column of a map, as float32 of its device."""
    return torch.ones_like(line, dtype=torch.float32).cumsum(0) - 1


class RelativePosition(nn.Module):
    """Relative position embedding along one axis (Li et al. 2022, MViTv2).

    A module without parameters: the table belongs to the attention.

    Args:
        q_stride: distance of neighbouring queries in tokens of the input.
        k_stride: distance of neighbouring keys in tokens of the input.
    """

    def __init__(self, q_stride: int = 1, k_stride: int = 1) -> None:
        super().__init__()
        self.more_queries = q_stride <= k_stride

    def forward(self, table: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the embedding of each pair; the table is resized to the distances on these maps.

        Args:
            table: (L, C), from the largest negative to the largest positive distance.
            queries: (Q,), a row or column of the map of queries, of which only the size is used.
            keys: (K,), the same of keys.

        Returns:
            (Q, K, C).
        """
        q_size, k_size = queries.shape[0], keys.shape[0]
        distances = 2 * (q_size if self.more_queries else k_size) - 1
        resized = F.interpolate(table.t()[None], size=distances, mode="linear")[0].t()
        q, k = positions_along(queries), positions_along(keys)
        # The coarser axis is scaled to the finer one.
        if self.more_queries:
            scale = q_size / k_size
            relative = q[:, None] - k[None, :] * scale + (k_size - 1) * scale
        else:
            relative = q[:, None] * (k_size / q_size) - k[None, :] + (k_size - 1)
        return resized[relative.long()]


def relative_logits(q: Tensor, height_terms: Tensor, width_terms: Tensor) -> Tensor:
    """Return the relative position logits of the attention: the sum of both axes.

    Args:
        q: (B, Qh, Qw, C), not scaled.
        height_terms: (Qh, Kh, C): see ``RelativePosition``.
        width_terms: (Qw, Kw, C).

    Returns:
        (B, Qh, Qw, Kh, Kw).
    """
    by_height = q @ height_terms.transpose(1, 2)
    by_width = (q.transpose(1, 2) @ width_terms.transpose(1, 2)).transpose(1, 2)
    return by_height[..., :, None] + by_width[..., None, :]


def position_table(length: int, dim: int, zero_init: bool) -> nn.Parameter:
    """Return a table for ``RelativePosition``.

    Args:
        length: number of distances.
        dim: channels of a head.
        zero_init: start with zeros.
    """
    table = torch.zeros(length, dim)
    return nn.Parameter(table if zero_init else nn.init.trunc_normal_(table, std=INIT_STD))


def absolute_positions(embedding: Tensor, has_cls_token: bool, like: Tensor) -> Tensor:
    """Return the embedding of each token of a map, resized from that of the pretraining.

    Args:
        embedding: (1, P, C) of a square map of tokens in rows, after that of a class token if there is one.
        has_cls_token: whether there is one; it is left out.
        like: tokens (N, H, W, C), of which only the size is used.

    Returns:
        (1, H, W, C).
    """
    own = embedding[:, 1:] if has_cls_token else embedding
    side = math.isqrt(own.shape[1])
    square = own.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size = (like.shape[1], like.shape[2])
    return F.interpolate(square, size=size, mode="bicubic").permute(0, 2, 3, 1)


def position_embedding(tokens: int, has_cls_token: bool, dim: int) -> nn.Parameter:
    """Return a parameter for ``absolute_positions``.

    Args:
        tokens: number of tokens of the pretraining.
        has_cls_token: whether there is a class token, too.
        dim: channels of the tokens.
    """
    embedding = torch.zeros(1, tokens + has_cls_token, dim)
    return nn.Parameter(nn.init.trunc_normal_(embedding, std=INIT_STD))
