"""The eager model with other rounding: what another right engine may make of the same model.

Engines fuse, reorder and block the same sums, and take equal scores in any order. Both are imitated: pixels
move by about the spacing of float32 numbers, which moves scores and boxes about as much as ONNX Runtime and
OpenVINO do, and what chooses by score (``topk``, ``sort``, ``nms``) meets its input in another order.
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
    """Let every choice by score meet its candidates in a random order, so that equal ones come in any.

    Args:
        seed: draws the orders.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; permute what it chooses from, and name what it chose by its own index."""
        name, kwargs = func._schema.name, kwargs or {}
        if name == "torchvision::nms":
            boxes, scores, threshold = args
            order = self._order(len(scores), scores)
            return order[func(boxes[order], scores[order], threshold)]
        if name in ("aten::topk", "aten::sort") and args[0].is_floating_point() and args[0].dim():
            given = _arguments(func, args, kwargs)
            order = self._order(args[0].shape[given["dim"]], args[0])
            given["self"] = args[0].index_select(given["dim"], order)
            values, places = func(**given)
            return values, order[places]
        return func(*args, **kwargs)

    def _order(self, count: int, like: Tensor) -> Tensor:
        return torch.randperm(count, generator=self.generator).to(like.device)


def _arguments(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an operation by their names, the defaults among them."""
    schema = func._schema.arguments
    given = {one.name: one.default_value for one in schema if one.has_default_value()}
    return {**given, **{one.name: value for one, value in zip(schema, args, strict=False)}, **kwargs}


def rounded(seed: int) -> Any:
    """Another rounding of a model, as ``detexport.parity.noise_variants`` opens it.

    Args:
        seed: draws it.
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
    """An image (3, H, W) in float32, each value moved by about its rounding."""
    return image.float() + NOISE * torch.randn(image.shape, generator=generator)
