from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from detexport.formats.pt2 import dynamic_nms_count
from detexport.layers import batched_nms, batched_nms_rotated, nms_per_class, nms_rotated

Nms = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def by_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Suppress the boxes of each class in a call of its own, as torchvision does for many boxes."""
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    for k in classes.unique():
        place = (classes == k).nonzero()[:, 0]
        keep[place[nms(boxes[place], scores[place], threshold)]] = True
    kept = keep.nonzero()[:, 0]
    return kept[scores[kept].argsort(descending=True, stable=True)]


def crowd(count: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return groups of four neighbouring boxes of one class, spread over a large image."""
    generator = torch.Generator().manual_seed(count)
    spots = torch.rand(count // 4, 2, generator=generator) * torch.tensor([1273.0, 740.0])
    size = 6 + 54 * torch.rand(count // 4, 2, generator=generator)
    corner = spots + 0.7 * size * (torch.rand(4, count // 4, 2, generator=generator) - 0.5)
    boxes = torch.cat([corner, corner + size], dim=2).flatten(0, 1)
    classes = torch.randint(num_classes, (count // 4,), generator=generator).repeat(4)
    return boxes, torch.randperm(count, generator=generator) / count, classes


def draw(count: int, num_classes: int, low: float, high: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * (high - low) + low
    size = torch.rand(count, 2, generator=generator) * (high - low) / 3 + 1
    scores = torch.randperm(count, generator=generator) / count
    classes = torch.randint(num_classes, (count,), generator=generator)
    return torch.cat([corner, corner + size], dim=1), scores, classes


class Suppress(torch.nn.Module):
    """NMS as a graph with one threshold."""

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        return nms_per_class(boxes, scores, classes, self.threshold)


def recorded(record: Callable[[torch.nn.Module, tuple[Tensor, ...]], Callable[..., Tensor]]) -> Nms:
    """Export one graph per threshold."""
    graphs: dict[float, Callable[..., Tensor]] = {}

    def run(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
        if threshold not in graphs:
            graphs[threshold] = record(Suppress(threshold), draw(7, 2, 0, 10, 0))
        return graphs[threshold](boxes, scores, classes)

    return run


def exported(module: torch.nn.Module, example: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    free = ({0: torch.export.Dim.DYNAMIC(min=0)},) * 3
    with dynamic_nms_count():
        return torch.export.export(module, example, dynamic_shapes=free, strict=False).module()


PATHS = {
    "eager": lambda: nms_per_class,
    "script": lambda: torch.jit.script(nms_per_class),
    "trace": lambda: recorded(torch.jit.trace),
    "exported": lambda: recorded(exported),
}


@pytest.fixture(scope="module", params=PATHS)
def suppress(request: pytest.FixtureRequest) -> Nms:
    return PATHS[request.param]()


@pytest.mark.parametrize(("low", "high"), [(0, 100), (-500, -300), (-40, 60)])
@pytest.mark.parametrize("num_classes", [1, 5, 80])
def test_result_equals_that_per_class(suppress: Nms, num_classes: int, low: float, high: float) -> None:
    boxes, scores, classes = draw(400, num_classes, low, high, seed=num_classes)
    expected = by_class(boxes, scores, classes, 0.5)
    assert 0 < len(expected) < 400
    assert suppress(boxes, scores, classes, 0.5).tolist() == expected.tolist()


def test_result_equals_that_per_class_for_many_boxes(suppress: Nms) -> None:
    # torchvision's batched_nms calls nms per class from 1000 boxes on.
    from torchvision.ops import batched_nms

    boxes, scores, classes = draw(1500, 8, 0, 200, seed=3)
    assert suppress(boxes, scores, classes, 0.5).tolist() == batched_nms(boxes, scores, classes, 0.5).tolist()


def test_negative_coordinates_do_not_meet_across_classes(suppress: Nms) -> None:
    """A shift by ``max + 1`` alone would move the second box onto the first."""
    boxes = torch.tensor([[-1.0, -1.0, 9.0, 9.0], [-12.0, -12.0, -2.0, -2.0]])
    kept = suppress(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5)
    assert kept.tolist() == [0, 1]


def test_an_iou_equal_to_the_threshold_is_not_suppressed() -> None:
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


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("unit", [1, 8])
def test_ious_that_equal_the_threshold(suppress: Nms, unit: int, threshold: float) -> None:
    """In float32, 3/5 rounds to more than 0.6, and 7/10 to less than 0.7."""
    for seed in range(5):
        boxes, scores, classes = draw(300, 3, 0, 12, seed)
        boxes = (boxes * unit).round() / unit
        expected = by_class(boxes, scores, classes, threshold)
        assert suppress(boxes, scores, classes, threshold).tolist() == expected.tolist()


@pytest.mark.parametrize("tenth", [3, 7, 10])
def test_rounding_is_that_per_class(suppress: Nms, tenth: int) -> None:
    """Many boxes in tenths of a px have an IoU equal to the threshold, except for float32 rounding."""
    for seed in range(5):
        boxes, scores, classes = draw(400, 5, 0, 40, seed)
        boxes = boxes.round() / tenth
        expected = by_class(boxes, scores, classes, 0.5).tolist()
        assert suppress(boxes, scores, classes, 0.5).tolist() == expected


@pytest.mark.parametrize("number", [1e9, float("inf"), float("nan")])
def test_a_distant_box_changes_nothing(suppress: Nms, number: float) -> None:
    boxes, scores, classes = draw(300, 80, 0, 100, seed=1)
    boxes[7, 2:] = number
    expected = by_class(boxes, scores, classes, 0.5).tolist()
    assert suppress(boxes, scores, classes, 0.5).tolist() == expected


@pytest.mark.parametrize("count", [2_000, 8_000])
def test_result_equals_that_per_class_with_the_classes_of_lvis(suppress: Nms, count: int) -> None:
    boxes, scores, classes = crowd(count, 1203)
    expected = by_class(boxes, scores, classes, 0.5)
    assert count // 2 < len(expected) < count
    assert suppress(boxes, scores, classes, 0.5).tolist() == expected.tolist()


def test_equal_scores_keep_their_order(suppress: Nms) -> None:
    boxes, scores, classes = draw(300, 5, 0, 400, seed=2)
    scores = (4 * scores).round() / 4
    expected = by_class(boxes, scores, classes, 0.5)
    assert suppress(boxes, scores, classes, 0.5).tolist() == expected.tolist()


def test_batched_nms_suppresses_within_a_class_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8]])
    kept = batched_nms(boxes, torch.tensor([0.2, 0.9, 0.5]), torch.tensor([1, 1, 0]), 0.5)
    assert kept.tolist() == [1, 2]


def test_rotated_nms_by_hand() -> None:
    """The second box is the first one turned by 5 degrees, the third is turned by 90."""
    boxes = torch.tensor([[50.0, 50, 40, 10, 0], [50, 50, 40, 10, 5], [50, 50, 40, 10, 90]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert nms_rotated(boxes, scores, 0.5).tolist() == [1, 2]
    assert nms_rotated(boxes, scores, 0.95).tolist() == [1, 2, 0]
    assert batched_nms_rotated(boxes, scores, torch.tensor([0, 1, 0]), 0.5).tolist() == [1, 2, 0]
    assert nms_rotated(boxes[:0], scores[:0], 0.5).tolist() == []
    assert batched_nms_rotated(boxes[:0], scores[:0], torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


class SuppressedRotated(torch.nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        return batched_nms_rotated(boxes, scores, classes, 0.4)


@pytest.mark.parametrize("kind", ["trace", "program"])
def test_graphs_suppress_rotated_boxes_as_eager_mode_does(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 5, generator=generator) * torch.tensor([60.0, 60.0, 30.0, 30.0, 360.0]) + 1
    boxes[20:25] = boxes[5:10]
    # Rounded, so that some scores are equal.
    scores = (torch.rand(40, generator=generator) * 20).round() / 20
    classes = torch.randint(0, 3, (40,), generator=generator)
    example = (boxes[:7], scores[:7], classes[:7])
    graph: torch.nn.Module = SuppressedRotated()
    if kind == "trace":
        graph = torch.jit.trace(graph, example, check_trace=False)
    else:
        rows = torch.export.Dim("rows", min=2)
        graph = torch.export.export(graph, example, dynamic_shapes=({0: rows},) * 3).module()
    assert graph(boxes, scores, classes).tolist() == SuppressedRotated()(boxes, scores, classes).tolist()
