from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detexport.layers import nms_per_class

Nms = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def by_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Each class on its own, as the meaning is: torchvision's way for many boxes."""
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for k in classes.unique():
        place = (classes == k).nonzero()[:, 0]
        keep[place[nms(boxes[place], scores[place], threshold)]] = True
    kept = keep.nonzero()[:, 0]
    return kept[scores[kept].argsort(descending=True)]


def draw(count: int, num_classes: int, low: float, high: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * (high - low) + low
    size = torch.rand(count, 2, generator=generator) * (high - low) / 3 + 1
    scores = torch.randperm(count, generator=generator) / count
    classes = torch.randint(num_classes, (count,), generator=generator)
    return torch.cat([corner, corner + size], dim=1), scores, classes


def traced() -> Nms:
    class Module(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
            return nms_per_class(boxes, scores, classes, 0.5)

    module = torch.jit.trace(Module(), draw(7, 2, 0, 10, 0))
    return lambda boxes, scores, classes, threshold: module(boxes, scores, classes)


PATHS = {"eager": lambda: nms_per_class, "script": lambda: torch.jit.script(nms_per_class), "trace": traced}


@pytest.fixture(scope="module", params=PATHS)
def suppress(request: pytest.FixtureRequest) -> Nms:
    return PATHS[request.param]()


@pytest.mark.parametrize(("low", "high"), [(0, 100), (-500, -300), (-40, 60)])
@pytest.mark.parametrize("num_classes", [1, 5, 80])
def test_equal_to_each_class_alone(suppress: Nms, num_classes: int, low: float, high: float) -> None:
    boxes, scores, classes = draw(400, num_classes, low, high, seed=num_classes)
    expected = by_class(boxes, scores, classes, 0.5)
    assert 0 < len(expected) < 400
    assert suppress(boxes, scores, classes, 0.5).tolist() == expected.tolist()


def test_equal_to_each_class_alone_beyond_what_torchvision_shifts(suppress: Nms) -> None:
    # torchvision's own batched_nms takes the classes apart from 1000 boxes on.
    from torchvision.ops import batched_nms

    boxes, scores, classes = draw(1500, 8, 0, 200, seed=3)
    assert suppress(boxes, scores, classes, 0.5).tolist() == batched_nms(boxes, scores, classes, 0.5).tolist()


def test_negative_coordinates_do_not_meet_across_classes(suppress: Nms) -> None:
    """By ``max + 1`` alone the second box would be moved onto the first."""
    boxes = torch.tensor([[-1.0, -1.0, 9.0, 9.0], [-12.0, -12.0, -2.0, -2.0]])
    kept = suppress(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5)
    assert kept.tolist() == [0, 1]


def test_the_threshold_is_not_suppressed_itself() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])
    arguments = boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0])
    assert nms_per_class(*arguments, 0.5).tolist() == [0, 1]
    assert nms_per_class(*arguments, 0.49).tolist() == [0]


@pytest.mark.parametrize("count", [0, 1])
def test_no_box_and_one_box(suppress: Nms, count: int) -> None:
    boxes = torch.tensor([[-3.0, -3.0, -1.0, -1.0]])[:count]
    kept = suppress(boxes, torch.ones(count), torch.zeros(count, dtype=torch.int64), 0.5)
    assert kept.tolist() == list(range(count))
    assert kept.dtype == torch.int64
