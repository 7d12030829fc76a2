"""Charts as coordinates: accuracy against latency, and precision-recall curves.

Positions in x are percentages of the plot's width and texts have a fixed size in px, so that a chart is
legible at any width. The labels are laid out for the widths of a phone and of a desktop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

from detexport.report.collect import Headline, ReportedJob, ReportedModel

PLOT_HEIGHT = 230.0
PLOT_WIDTHS = (265.0, 340.0, 420.0, 500.0)
"""Widths in px at which labels must not overlap."""
TOP, BOTTOM = 26.0, 16.0
"""Margins inside the plot, in px, for the labels of the highest and the lowest point."""
LETTER, LINE = 7.0, 15.0
"""Width of a letter and height of a line of a label, in px."""
RADIUS = 6.0
OFFSETS = (-11.0, 20.0, -27.0, 36.0, -43.0, 52.0, -59.0, 68.0, -75.0, 84.0, -91.0, 100.0)
"""Distances of a label's baseline from its point, in px: those that are tried, the best first."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis.

    Args:
        position: percentage of the width, or px of the height.
        text: its label.
    """

    position: float
    text: str


@dataclass(frozen=True)
class Point:
    """The eager model or a target in a chart.

    Args:
        name: ``eager``, or the target's name.
        kind: ``eager``, ``shipped`` (recommended), ``passed`` or ``failed``.
        x: percentage of the width.
        p90_x: the same for the 90th percentile of the latency.
        y: px from the top.
        label_y: baseline of the label.
        anchor: SVG's ``text-anchor`` of the label.
        text: the values in words.
    """

    name: str
    kind: str
    x: float
    p90_x: float
    y: float
    label_y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class TradeOff:
    """Accuracy against latency, of one model on one device and for one metric.

    Args:
        model: the model's name.
        metric: the metric in words.
        device: the device.
        x_ticks: latency in ms.
        y_ticks: the metric.
        points: the eager model first.
        budget_y: px of the lowest accuracy within the budget; None if it is outside the plot.
        budget_x: percentage of the largest latency within the budget; None without one, or outside the plot.
    """

    model: str
    metric: str
    device: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    budget_y: float | None
    budget_x: float | None


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve in a square of 100 x 100, recall to the right and precision to the top.

    Args:
        name: ``eager``, or the target's name.
        kind: see ``Point``.
        path: SVG's path data.
        distance: largest difference in precision from the eager model at equal recall; 0 for eager.
    """

    name: str
    kind: str
    path: str
    distance: float


@dataclass(frozen=True)
class PrecisionRecall:
    """The precision-recall curves of one model's targets.

    Args:
        metric: the metric in words.
        iou: the IoU at which a detection is right.
        curves: the eager model first.
    """

    metric: str
    iou: str
    curves: tuple[Curve, ...]


def trade_offs(
    model: ReportedModel,
    jobs: Sequence[ReportedJob],
    recommended: ReportedJob | None,
    *,
    device: str,
    ap_loss: float,
    latency_ms: float | None,
) -> Iterator[TradeOff]:
    """Yield a chart for each task metric; none if latency or accuracy was not measured.

    Args:
        model: the model.
        jobs: all jobs.
        recommended: the job to ship.
        device: the device of the latencies.
        ap_loss: the budget's largest loss of the metric.
        latency_ms: the budget's largest latency; None is no limit.
    """
    own = [job for job in jobs if job.model == model.name and job.headlines and device in job.latency]
    eager = model.latency.get("devices", {}).get(device, {}).get("runners", {}).get("eager")
    names = dict.fromkeys(headline.name for job in own for headline in job.headlines)
    for name in names if eager else ():
        measured = [(job, headline) for job in own for headline in job.headlines if headline.name == name]
        yield _trade_off(measured, eager, recommended, device, ap_loss, latency_ms)


def _trade_off(
    measured: Sequence[tuple[ReportedJob, Headline]],
    eager: dict[str, Any],
    recommended: ReportedJob | None,
    device: str,
    ap_loss: float,
    latency_ms: float | None,
) -> TradeOff:
    reference = measured[0][1].eager
    runners = [eager, *(job.latency[device] for job, _ in measured)]
    values = [reference, *(headline.artifact for _, headline in measured)]
    names = ["eager", *(job.target for job, _ in measured)]
    kinds = ["eager", *(kind_of(job, recommended) for job, _ in measured)]
    longest = 1.05 * max(runner["p90_ms"] for runner in runners)
    low = min(reference - 1.6 * ap_loss, *values)
    high = max(reference + 0.8 * ap_loss, *values)

    def x_of(ms: float) -> float:
        return round(min(100 * ms / longest, 100), 2)

    def y_of(value: float) -> float:
        return round(TOP + (PLOT_HEIGHT - TOP - BOTTOM) * (high - value) / (high - low or 1), 2)

    points = _labelled(
        [
            (name, kind, x_of(runner["p50_ms"]), x_of(runner["p90_ms"]), y_of(value), runner["p50_ms"], value)
            for name, kind, runner, value in zip(names, kinds, runners, values, strict=True)
        ]
    )
    return TradeOff(
        model=measured[0][0].model,
        metric=measured[0][1].words,
        device=device,
        x_ticks=tuple(Tick(x_of(ms), f"{ms:g}") for ms in ticks(0, longest, 5)),
        y_ticks=tuple(Tick(y_of(value), f"{value:.3f}") for value in ticks(low, high, 4)),
        points=tuple(points),
        budget_y=y_of(reference - ap_loss),
        budget_x=x_of(latency_ms) if latency_ms is not None and latency_ms < longest else None,
    )


def kind_of(job: ReportedJob, recommended: ReportedJob | None) -> str:
    """Return how a job is marked in charts: ``shipped``, ``passed`` or ``failed``."""
    if recommended is not None and job.name == recommended.name:
        return "shipped"
    return "passed" if job.passed else "failed"


def kinds_of(jobs: Sequence[ReportedJob], recommended: ReportedJob | None) -> dict[str, str]:
    """Return how the eager model and each target of a model are marked in charts, see ``Point``."""
    return {"eager": "eager", **{job.target: kind_of(job, recommended) for job in jobs}}


def _labelled(points: list[tuple[str, str, float, float, float, float, float]]) -> Iterator[Point]:
    """Place a label at each point, where it covers no other point and no other label."""
    taken: list[tuple[float, float, float, float]] = []  # x in %, half a point's width around it; y from, to
    placed: list[tuple[str, float, float, int]] = []  # anchor, x in %, baseline, letters
    for _, _, x, _, y, _, _ in points:
        taken.append((x, x, y - RADIUS, y + RADIUS))
    for name, kind, x, p90_x, y, ms, value in points:
        anchor = "start" if x < 22 else "end" if x > 78 else "middle"
        fitting = (
            y + offset
            for offset in OFFSETS
            if LINE <= y + offset <= PLOT_HEIGHT - 2
            and _is_free(anchor, x, y + offset, len(name), taken, placed)
        )
        label_y = next(fitting, y + OFFSETS[0])
        placed.append((anchor, x, label_y, len(name)))
        yield Point(name, kind, x, p90_x, y, round(label_y, 2), anchor, f"{name}: {ms:.3g} ms, {value:.4f}")


def _is_free(
    anchor: str,
    x: float,
    baseline: float,
    letters: int,
    points: Sequence[tuple[float, float, float, float]],
    labels: Sequence[tuple[str, float, float, int]],
) -> bool:
    for width in PLOT_WIDTHS:
        left, right = _extent(anchor, x, letters, width)
        for other_anchor, other_x, other_baseline, other_letters in labels:
            other_left, other_right = _extent(other_anchor, other_x, other_letters, width)
            if left < other_right and other_left < right and abs(baseline - other_baseline) < LINE:
                return False
        for point_x, _, top, bottom in points:
            center = point_x * width / 100
            beside = right <= center - RADIUS or center + RADIUS <= left
            if not beside and top < baseline + 3 and baseline - LINE + 4 < bottom:
                return False
    return True


def _extent(anchor: str, x: float, letters: int, width: float) -> tuple[float, float]:
    """Return the left and the right end of a label in px."""
    center, length = x * width / 100, letters * LETTER
    left = {"start": center - RADIUS, "middle": center - length / 2, "end": center + RADIUS - length}[anchor]
    return left, left + length


def longest_ms(measured: dict[str, Any]) -> float:
    """Return the end of a device's latency axis in ms, at most 1.5 times the largest p90, to cut outliers."""
    runners = measured["runners"].values()
    p90s = [runner["p90_ms"] for runner in runners]
    return min(max((runner["p99_ms"] for runner in runners), default=1), 1.5 * max(p90s, default=1))


def share(value: float, longest: float) -> str:
    """Return a value as a percentage of an axis, at most 100 %."""
    return f"{100 * min(value / longest, 1):.2f}%"


def ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round values from ``low`` to ``high``."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** floor(log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= count)
    return [round(step * index, 10) for index in range(ceil(low / step), floor(high / step) + 1)]


def precision_recall(
    model: ReportedModel, jobs: Sequence[ReportedJob], recommended: ReportedJob | None
) -> Iterator[PrecisionRecall]:
    """Yield the curves for each metric and IoU, of the model's jobs that were evaluated."""
    own = [
        job for job in jobs if job.model == model.name and (job.parity.get("accuracy") or {}).get("curves")
    ]
    if not own:
        return
    for headline in own[0].headlines:
        for iou in own[0].parity["accuracy"]["curves"].get(headline.name, {}):
            curves: list[Curve] = []
            for job in own:
                one = job.parity["accuracy"]["curves"][headline.name][iou]
                if not curves:
                    curves.append(Curve("eager", "eager", _path(one["eager"]), 0.0))
                distance = max(abs(a - b) for a, b in zip(one["eager"], one["artifact"], strict=True))
                curves.append(
                    Curve(job.target, kind_of(job, recommended), _path(one["artifact"]), round(distance, 4))
                )
            yield PrecisionRecall(headline.words, iou, tuple(curves))


def _path(precision: Sequence[float]) -> str:
    last = len(precision) - 1
    points = (f"{100 * index / last:g} {100 * (1 - value):g}" for index, value in enumerate(precision))
    return "M" + "L".join(points)
