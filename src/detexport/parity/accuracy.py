"""The task metric: AP of an artifact and of the eager model against ground truth, with delta and interval."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from detexport.contract import Contract
from detexport.data.coco import CocoDataset, CocoRecord, read_record, records_of
from detexport.metrics.bootstrap import PairedDifference, paired_difference
from detexport.metrics.evaluate import HEADLINES, Evaluation, Evaluator, ImageEvaluation, accuracy_deltas
from detexport.metrics.tallies import Matches, Recalls, Tallies, unpack_tallies
from detexport.predictions.predict_images import predict
from detexport.reference.resume import Progress
from detexport.reference.store import EagerAccuracy
from detexport.runtime.session import Session
from detexport.system.progress import progress_bar

if TYPE_CHECKING:
    from detexport.execution.sessions import Sessions

FLOAT32 = "float32"
"""The precision of the eager model."""

TF32 = "tf32"
"""Float32 with the 10-bit mantissa of a GPU's tensor cores: a mode of the eager model, not of a target."""

EQUAL = 1e-9
"""Differences up to this are rounding of sums."""

MOST_WORST = 5


@dataclass(frozen=True)
class ImageDifferences:
    """Differences of a metric evaluated on each image alone, see ``paired_difference``.

    Args:
        better: number of images on which the artifact's metric is higher.
        worse: number of images on which it is lower.
        equal: number of images on which it is equal.
        undefined: number of images on which the metric is undefined, for lack of ground truth and detections.
        worst: ids of the images with the lowest differences below 0, with the differences.
    """

    better: int
    worse: int
    equal: int
    undefined: int
    worst: tuple[tuple[int | str, float], ...] = ()

    @classmethod
    def of(cls, differences: np.ndarray, image_ids: tuple[int | str, ...]) -> "ImageDifferences":
        """Count the differences (N,), NaN where there is none, of these images."""
        worse = np.flatnonzero(differences < -EQUAL)
        worst = worse[np.argsort(differences[worse], kind="stable")][:MOST_WORST]
        return cls(
            better=int(np.count_nonzero(differences > EQUAL)),
            worse=len(worse),
            equal=int(np.count_nonzero(np.abs(differences) <= EQUAL)),
            undefined=int(np.count_nonzero(np.isnan(differences))),
            worst=tuple((image_ids[index], float(differences[index])) for index in worst.tolist()),
        )


CURVE_IOUS = {"0.50": 0, "0.75": 5}
"""IoU of each stored precision-recall curve, with its index in COCO's thresholds 0.50, 0.55, ..., 0.95."""


@dataclass(frozen=True)
class ClassAccuracy:
    """The metric of one class: AP, PQ or IoU.

    Args:
        objects: number of annotated objects, or of segments for PQ; None for IoU, which counts pixels.
        eager: the eager model's metric; None if it is undefined, since the class is not annotated.
        artifact: the artifact's.
    """

    objects: int | None
    eager: float | None
    artifact: float | None


@dataclass(frozen=True)
class PrecisionCurve:
    """Precision at the recalls 0, 0.01, ..., 1 at one IoU, the mean over classes.

    Args:
        eager: the eager model's, 101 values.
        artifact: the artifact's.
    """

    eager: tuple[float, ...]
    artifact: tuple[float, ...]


@dataclass(frozen=True)
class Accuracy:
    """Metrics of an artifact and of the eager model.

    Args:
        precision: ``"float32"``, ``"bf16"``, ``"int8"``.
        budget: largest difference of a task metric from the eager model's.
        least: a lower eager metric is too low to compare with.
        images: number of images.
        eager: the eager model's metrics.
        artifact: the artifact's metrics.
        intervals: 95 % interval of each task metric's difference, by a paired bootstrap.
        per_image: differences of each task metric by image.
        tied: for each metric that ranks detections across images, the smallest and the largest difference
            over all orders of equal scores; in float32 only.
        per_class: the metric of each class, by task metric and class name; none for recall.
        curves: precision-recall curves, by metric and IoU (``CURVE_IOUS``).
    """

    precision: str
    budget: float
    least: float
    images: int
    eager: dict[str, float]
    artifact: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_image: dict[str, ImageDifferences] = field(default_factory=dict)
    tied: dict[str, tuple[float, float]] = field(default_factory=dict)
    per_class: dict[str, dict[str, ClassAccuracy]] = field(default_factory=dict)
    curves: dict[str, dict[str, PrecisionCurve]] = field(default_factory=dict)

    @property
    def differences(self) -> dict[str, float]:
        """Return artifact - eager of each task metric; a metric that the artifact lacks counts as 0."""
        return accuracy_deltas(self.eager, self.artifact)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return why the eager metrics are too low to compare with, whatever the artifact."""
        if not self.differences:
            return ("accuracy: the eager model has no metric to compare with",)
        return tuple(
            f"accuracy: eager {name} {self.eager[name]:.3f} is too low to compare with (least {self.least:g})"
            for name in self.differences
            if not self.eager[name] >= self.least
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """Return why the artifact does not pass.

        In reduced precision the metrics alone decide, so an eager metric that is too low is a fault, too.
        """
        over_budget = [
            f"accuracy: {name} {self.artifact.get(name, 0.0):.4f}, eager {self.eager[name]:.4f}, "
            f"difference {difference:+.4f}{self._interval(name)} (limit {self.budget:g})"
            for name, difference in self.differences.items()
            if not self._least_difference(name) <= self.budget
        ]
        return (*(() if self.precision == FLOAT32 else self.notes), *over_budget)

    def _least_difference(self, name: str) -> float:
        """Return the smallest difference over all orders of equal scores."""
        low, high = self.tied.get(name, (self.differences[name],) * 2)
        return max(low, -high, 0.0) if np.isfinite([low, high]).all() else float("inf")

    def _interval(self, name: str) -> str:
        if name not in self.intervals:
            return ""
        low, high = self.intervals[name]
        return f" [{low:+.4f}, {high:+.4f}]"

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain JSON values."""
        return {**asdict(self), "differences": self.differences, "notes": list(self.notes)}


def measure_accuracy(
    sessions: "Sessions",
    eager: EagerAccuracy,
    dataset: CocoDataset,
    *,
    precision: str,
    budget: float,
    least: float,
    tie: float = 0.0,
    progress: Progress | None = None,
) -> Accuracy:
    """Evaluate an artifact on the images that the eager model was evaluated on.

    Args:
        sessions: sessions of the artifact, in this process or in the workers of an engine.
        eager: the eager model's metrics.
        dataset: the validation split, with keypoints if there are any.
        precision: of the target.
        budget: see ``Accuracy``.
        least: see ``Accuracy``.
        tie: scores that differ by no more are equal, in any order; 0 leaves ``tied`` out.
        progress: evaluations of an interrupted run, which are not repeated.

    Raises:
        DataError: the data set lacks an image that the eager model was evaluated on, or the annotations.
    """
    records = records_of(dataset, eager.image_ids)
    contract = sessions.artifact.contract
    evaluator = Evaluator(dataset, contract.oks_sigmas)
    reached = evaluator.summarize(evaluate_images(sessions, records, evaluator, progress or Progress()))
    names = class_names(dataset, contract)
    return compare_accuracy(
        eager, reached, tie=tie, names=names, precision=precision, budget=budget, least=least
    )


def class_names(dataset: CocoDataset, contract: Contract) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes that each task metric is the mean of, in their order."""
    things, stuff = dataset.class_names, contract.stuff_class_names
    return {
        **dict.fromkeys(HEADLINES, things),
        "panoptic/PQ": (*things, *stuff[1:]),  # stuff 0 stands for all things
        "sem_seg/mIoU": stuff,
    }


def compare_accuracy(
    eager: EagerAccuracy,
    reached: Evaluation,
    *,
    tie: float = 0.0,
    names: Mapping[str, tuple[str, ...]] | None = None,
    **limits: Any,
) -> Accuracy:
    """Compare an artifact's metrics with the eager model's, in total, by image and by class.

    Args:
        eager: the eager model's evaluation.
        reached: the artifact's, on the same images.
        tie: see ``measure_accuracy``.
        names: see ``class_names``; classes without a name are numbered.
        limits: ``precision``, ``budget`` and ``least`` of ``Accuracy``.
    """
    paired, tallies = paired_differences(eager, reached), _both(eager, reached)
    ranked = {name: both for name, both in tallies.items() if isinstance(both[0], Matches)}
    return Accuracy(
        images=len(reached.image_ids),
        eager=eager.metrics,
        artifact=reached.metrics,
        intervals={name: one.interval for name, one in paired.items()},
        per_image={name: ImageDifferences.of(one.images, reached.image_ids) for name, one in paired.items()},
        tied={name: _tied(*both, tie) for name, both in ranked.items()} if tie else {},
        per_class={
            name: _by_class(*both, (names or {}).get(name, ()))
            for name, both in tallies.items()
            if not isinstance(both[0], Recalls)
        },
        curves={name: _curves(*both) for name, both in ranked.items() if not isinstance(both[0], Recalls)},
        **limits,
    )


def _both(eager: EagerAccuracy, reached: Evaluation) -> dict[str, tuple[Any, Any]]:
    """Return the tallies of both sides, which are of one class, by metric."""
    return {
        name: (expected, reached.tallies[name])
        for name, expected in unpack_tallies(eager.tallies).items()
        if name in reached.tallies
    }


def _tied(expected: Matches, actual: Matches, tie: float) -> tuple[float, float]:
    """Return the smallest and the largest difference of a metric over all orders of equal scores."""
    (low, high), (actual_low, actual_high) = expected.extremes(tie), actual.extremes(tie)
    return actual_low - high, actual_high - low


def _by_class(expected: Tallies, actual: Tallies, names: tuple[str, ...]) -> dict[str, ClassAccuracy]:
    """Return the metric of each class on both sides."""
    eager, artifact = expected.by_class().tolist(), actual.by_class().tolist()
    counts = expected.annotated()
    objects = [None] * len(eager) if counts is None else [int(count) for count in counts]
    labels = [_label(index, names) for index in range(max(len(eager), len(artifact)))]
    return {
        label: ClassAccuracy(count, _or_none(one), _or_none(other))
        for label, count, one, other in zip_longest(labels, objects, eager, artifact)
    }


def _label(index: int, names: tuple[str, ...]) -> str:
    """Return the name of a class; with its index, if it has none or shares it with another class."""
    if index >= len(names):
        return f"class {index}"
    return names[index] if names.count(names[index]) == 1 else f"{names[index]} ({index})"


def _or_none(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _curves(expected: Matches, actual: Matches) -> dict[str, PrecisionCurve]:
    """Return the precision-recall curves of both sides, in four digits; none without objects."""
    if not expected.objects.any():
        return {}
    return {
        iou: PrecisionCurve(
            *(tuple(side.precision_at_recalls(index).round(4).tolist()) for side in (expected, actual))
        )
        for iou, index in CURVE_IOUS.items()
        if index < len(expected.correct)
    }


def paired_differences(eager: EagerAccuracy, reached: Evaluation) -> Mapping[str, PairedDifference]:
    """Return the paired difference of each task metric that both sides have tallies of."""
    tallies = unpack_tallies(eager.tallies)
    return {
        name: paired_difference(tallies[name], reached.tallies[name])
        for name in HEADLINES
        if name in tallies and name in reached.tallies and name in eager.metrics
    }


def evaluate_images(
    sessions: "Sessions", records: list[CocoRecord], evaluator: Evaluator, progress: Progress
) -> Iterator[ImageEvaluation]:
    """Run an artifact on images, and yield the evaluation of each."""
    missing = [record for record in records if _name(record) not in progress]
    evaluated = sessions.map(partial(partial, _evaluate, evaluator), missing)
    for record in progress_bar(records, desc="task metric", unit="image"):
        yield progress.once(_name(record), ImageEvaluation, partial(next, evaluated))


def _name(record: CocoRecord) -> str:
    """Return the name under which the evaluation of an image is kept."""
    return f"task metric {record.image_id!r}"


def _evaluate(evaluator: Evaluator, session: Session, record: CocoRecord) -> ImageEvaluation:
    image = read_record(record, session.artifact.contract.channel_order)
    return evaluator.evaluate_image(record, predict(session, image))
