"""Non-maximum suppression per class, in eager mode and in every exported graph.

torchvision's operator has no classes. One call serves all classes if the boxes of each class are shifted so
that they overlap no others. In float32 the shift rounds the coordinates (to 1/8 px with 1203 classes). In
float64 it does not, but then the IoU is not rounded to float32 as in a call per class. ``_at_once`` therefore
shifts the boxes in float64 and checks that rounding changes no decision; otherwise there is one call per
class.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from detexport.layers.rotated_boxes import matched_iou_rotated

nms = torchvision.ops.nms
"""torchvision's suppression, without classes."""

PAIRS_PER_CLASS = 20_000
"""Number of pairs of boxes that a CPU compares in the time of one more call."""
ROUNDING = 2.0**-19
"""Bound of the relative error of an IoU in float32: 13 roundings of 2^-24 each."""
LARGEST_SIDE_PX = 2.0**60
"""An area of longer sides may be infinite in float32."""

LAST_RANK = 2**31
"""Greater than the rank of any box."""
GRAPH_TOLERANCE = 1e-6
"""``TOLERANCE`` of rotated boxes in graphs, whose runtime may compute in float32."""

_recorded_whole = False


def nms_per_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes that overlap a box of the same class with a higher score.

    The result equals that of ``torchvision.ops.nms`` on each class; of equal scores the first box ranks
    higher.

    Args:
        boxes: (R, 4) XYXY in px, R may be 0.
        scores: (R,).
        classes: (R,) int64, at least 0.
        iou_threshold: a box is suppressed if its IoU with a box of higher score is greater.

    Returns:
        (K,) indices of the boxes that are kept, by descending score.
    """
    if not torch.jit.is_scripting():
        if _recorded_whole:
            kept: Tensor = torch.ops.detexport.nms_per_class(boxes, scores, classes, iou_threshold)
            return kept
        if torch.compiler.is_exporting():
            return _without_branches(boxes, scores, classes, iou_threshold)
    return _exactly(boxes, scores, classes, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes as ``nms_per_class`` does, under detectron2's names of function and arguments."""
    return nms_per_class(boxes.float(), scores, idxs, iou_threshold)


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppress rotated boxes that overlap a box with a higher score.

    Args:
        boxes: (R, 5) centre x and y, width, height, and angle in degrees, counter-clockwise.
        scores: (R,).
        iou_threshold: a box is suppressed if its IoU with a box of higher score is greater.

    Returns:
        (K,) indices of the boxes that are kept, by descending score.
    """
    return batched_nms_rotated(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def batched_nms_rotated(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Suppress rotated boxes as ``nms_rotated`` does, among those of the same class ``idxs`` (R,)."""
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript must not compile the other condition
        if torch.compiler.is_exporting():
            return _rotated_in_graph(boxes.double(), scores, idxs, iou_threshold)
    order = torch.sort(scores, stable=True, dim=0, descending=True)[1]
    return order[_rotated(boxes[order].double(), idxs[order], iou_threshold)]


@torch.jit.script_if_tracing
def _rotated(boxes: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the rotated boxes that are kept, for boxes by descending score."""
    left = torch.ones_like(classes).cumsum(0) - 1
    kept: list[Tensor] = [left[:0]]
    while left.shape[0] > 0:
        best = left[:1]
        kept.append(best)
        left = left[1:]
        same = left[classes[left] == classes[best]]
        overlaps = matched_iou_rotated(boxes[best].expand(same.shape[0], 5), boxes[same])
        suppressed = torch.zeros_like(classes, dtype=torch.bool)
        suppressed[same[overlaps > iou_threshold]] = True
        left = left[~suppressed[left]]
    return torch.cat(kept)


def _rotated_in_graph(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes as ``batched_nms_rotated`` does, in a graph of ``torch.export``.

    The boxes are chosen one by one, since ONNX has no stable sort.
    """
    rank = torch.ones_like(classes).cumsum(0)
    nothing = torch.zeros_like(rank)

    def remains(left: Tensor, kept_as: Tensor) -> Tensor:
        return left.any()

    def keep_best(left: Tensor, kept_as: Tensor) -> tuple[Tensor, Tensor]:
        highest = torch.where(left, scores, -torch.inf).max()
        best = torch.where(left & (scores == highest), rank, LAST_RANK).min()
        is_best = rank == best
        index = (best - 1)[None]
        overlaps = matched_iou_rotated(boxes[index].expand_as(boxes), boxes, GRAPH_TOLERANCE)
        suppressed = is_best | ((overlaps > iou_threshold) & (classes == classes[index]))
        return left & ~suppressed, torch.where(is_best, kept_as.max() + 1, kept_as)

    _, kept_as = torch.while_loop(remains, keep_best, (nothing == 0, nothing))
    kept = (kept_as > 0).nonzero()[:, 0]
    return kept[torch.sort(kept_as[kept], dim=0)[1]]


@contextmanager
def nms_recorded_whole() -> Iterator[None]:
    """Export ``nms_per_class`` as one operator within the block, for a runtime that has it."""
    global _recorded_whole
    _recorded_whole = True
    try:
        yield
    finally:
        _recorded_whole = False


@torch.jit.script_if_tracing
def _exactly(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    iou_threshold: float,
    pairs_per_class: int = PAIRS_PER_CLASS,
) -> Tensor:
    """Suppress boxes as ``nms_per_class`` does; scripted within a trace, which keeps the branches."""
    num_classes = int(F.pad(classes, [0, 1]).max()) + 1
    if boxes.is_cuda or boxes.shape[0] * boxes.shape[0] <= pairs_per_class * num_classes:
        kept, is_exact = _at_once(boxes, scores, classes, iou_threshold)
        if bool(is_exact):
            return kept
    return _one_by_one(boxes, scores, classes, iou_threshold)


def _at_once(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    iou_threshold: float,
    rounding: float = ROUNDING,
    largest_side_px: float = LARGEST_SIDE_PX,
) -> tuple[Tensor, Tensor]:
    """Suppress in float64, all classes at once, and check whether float32 would have kept the same boxes.

    It would have if the shift is lossless and both ends of the rounding interval of the threshold keep the
    same boxes: every decision is then the same for all thresholds between. The check is a bool tensor ().
    """
    boxes, scores = boxes.double(), scores.double()
    shift = _shift(boxes, classes)
    apart = boxes + shift
    kept = torch.ops.torchvision.nms(apart, scores, iou_threshold * (1 + rounding))
    again = torch.ops.torchvision.nms(apart[kept], scores[kept], iou_threshold * (1 - rounding))
    lossless = (apart - shift == boxes) & (boxes.abs() < largest_side_px)
    return kept, lossless.all() & (torch.ones_like(again).sum() == torch.ones_like(kept).sum())


def _shift(boxes: Tensor, classes: Tensor) -> Tensor:
    """Return the (R, 1) shift that separates the (R, 4) float64 boxes of each class from the others."""
    # The added zero gives the maximum a value without boxes, without a branch.
    extent = F.pad(boxes.flatten(), [0, 1])
    step = (extent.max() - extent.min()).ceil() + 1
    return (classes.to(boxes.dtype) * step)[:, None]


def _without_branches(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes in a graph of ``torch.export``, as ``_exactly`` does.

    A loop of one step or none takes the place of a branch. The graph then loops over all classes, or over
    none if ``_at_once`` ran and is exact.
    """
    num_classes = F.pad(classes, [0, 1]).max() + 1
    pairs = torch.ones_like(classes).sum() ** 2
    is_few = (
        torch.ones_like(pairs, dtype=torch.bool) if boxes.is_cuda else pairs <= PAIRS_PER_CLASS * num_classes
    )
    end = is_few.to(torch.int64)

    def remains_at_once(k: Tensor, is_kept: Tensor, is_exact: Tensor) -> Tensor:
        return k < end

    def keep_at_once(k: Tensor, is_kept: Tensor, is_exact: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, is_exact = _at_once(boxes, scores, classes, iou_threshold)
        return k + 1, is_kept.index_fill(0, kept, True) & is_exact, is_exact

    start = torch.zeros_like(end)
    nothing = torch.zeros_like(classes, dtype=torch.bool)
    _, is_kept, is_exact = torch.while_loop(
        remains_at_once, keep_at_once, (start, nothing, torch.zeros_like(end, dtype=torch.bool))
    )
    last = torch.where(is_exact, 0, num_classes)

    def remains(k: Tensor, is_kept: Tensor) -> Tensor:
        return k < last

    def keep_class(k: Tensor, is_kept: Tensor) -> tuple[Tensor, Tensor]:
        members = (classes == k).nonzero()[:, 0]
        kept = torch.ops.torchvision.nms(boxes[members], scores[members], iou_threshold)
        return k + 1, is_kept.index_fill(0, members[kept], True)

    _, is_kept = torch.while_loop(remains, keep_class, (start, is_kept))
    kept = is_kept.nonzero()[:, 0]
    return kept[torch.sort(scores[kept], stable=True, dim=0, descending=True)[1]]


def _one_by_one(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes with one call per class."""
    classes, order = torch.sort(classes, stable=True, dim=0)
    boxes, by_class = boxes[order], scores[order]
    sizes: list[int] = torch.unique_consecutive(classes, return_counts=True)[1].tolist()
    kept: list[Tensor] = [order[:0]]
    start = 0
    for size in sizes:
        end = start + size
        kept.append(start + torch.ops.torchvision.nms(boxes[start:end], by_class[start:end], iou_threshold))
        start = end
    indices = order[torch.cat(kept)].sort()[0]
    return indices[torch.sort(scores[indices], stable=True, dim=0, descending=True)[1]]


@torch.library.custom_op("detexport::nms_per_class", mutates_args=())
def _whole(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    return _exactly(boxes, scores, classes, iou_threshold)


@_whole.register_fake
def _(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    return classes.new_empty((torch.library.get_ctx().new_dynamic_size(min=0),))
