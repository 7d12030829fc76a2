"""The eager model with other rounding, as another correct runtime may compute it.

Runtimes fuse, reorder and block the same sums, and take equal scores in any order. Both are imitated. Noise
of about the spacing of float32 numbers is added to the pixels, which moves scores and boxes about as much as
ONNX Runtime and OpenVINO do. ``topk``, ``sort`` and ``nms`` get their input in random order.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

NOISE = 1e-5
"""Standard deviation of the noise on pixels of 0..255; float32 numbers near 255 are 1.5e-5 apart."""


class AnyOrder(TorchDispatchMode):
    """Mode in which ``topk``, ``sort`` and ``nms`` get their candidates in random order, ties included.

    Args:
        seed: of the orders.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on permuted candidates; return indices into the original order."""
        name, kwargs = func._schema.name, kwargs or {}
        if name == "torchvision::nms":
            boxes, scores, threshold = args
            order = self._order(len(scores), scores)
            return order[func(boxes[order], scores[order], threshold)]
        if name in ("aten::topk", "aten::sort") and args[0].is_floating_point() and args[0].dim():
            given = _arguments(func, args, kwargs)
            order = self._order(args[0].shape[given["dim"]], args[0])
            given["self"] = args[0].index_select(given["dim"], order)
            values, indices = func(**given)
            return values, order[indices]
        return func(*args, **kwargs)

    def _order(self, count: int, like: Tensor) -> Tensor:
        return torch.randperm(count, generator=self.generator).to(like.device)


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of an operation by name, defaults included."""
    schema = func._schema.arguments
    given = {one.name: one.default_value for one in schema if one.has_default_value()}
    return {**given, **{one.name: value for one, value in zip(schema, args, strict=False)}, **kwargs}


def rounded(seed: int) -> Any:
    """Return a variant (``detexport.parity.eager_variants``) with other rounding.

    Args:
        seed: of noise and orders.
    """

    @contextmanager
    def open_rounded(net: nn.Module) -> Iterator[Any]:
        def run(examples: list[dict[str, Any]]) -> Any:
            generator = torch.Generator().manual_seed(seed)
            moved = [{**example, "image": _moved(example["image"], generator)} for example in examples]
            with AnyOrder(seed):
                return net(moved)

        yield run

    return open_rounded


def _moved(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return an image (3, H, W) in float32, with noise of about the rounding of its values."""
    return image.float() + NOISE * torch.randn(image.shape, generator=generator)
