"""The task metric: AP of an artifact and of the eager model against ground truth, with delta and interval."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.data.coco import CocoDataset, CocoRecord, read_record, records_of
from detexport.metrics.bootstrap import PairedDifference, paired_difference
from detexport.metrics.evaluate import HEADLINES, Evaluation, Evaluator, ImageEvaluation, accuracy_deltas
from detexport.metrics.tallies import Matches, unpack_tallies
from detexport.predictions.records import predict
from detexport.reference.resume import Progress
from detexport.reference.store import EagerAccuracy
from detexport.runtime.session import Session

FLOAT32 = "float32"
"""The precision of the eager model."""

TF32 = "tf32"
"""Float32 with the 10-bit mantissa of a GPU's tensor cores: a mode of the eager model, not of a target."""

BUDGETS = {FLOAT32: 0.001, TF32: 0.002, "bf16": 0.005, "int8": 0.02}
"""Largest difference of a headline metric from the eager model's, by precision; as in ``conf/parity``."""

MIN_ACCURACY = 0.1
"""A lower eager metric is too low to compare with; as in ``conf/parity``."""

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


@dataclass(frozen=True)
class Accuracy:
    """Metrics of an artifact and of the eager model.

    Args:
        precision: ``"float32"``, ``"bf16"``, ``"int8"``.
        budget: largest difference of a headline metric from the eager model's.
        least: a lower eager metric is too low to compare with.
        images: number of images.
        eager: the eager model's metrics.
        artifact: the artifact's metrics.
        intervals: 95 % interval of each headline metric's difference, by a paired bootstrap.
        per_image: differences of each headline metric by image.
        tied: for each metric that ranks detections across images, the smallest and the largest difference
            over all orders of equal scores; in float32 only.
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

    @property
    def differences(self) -> dict[str, float]:
        """Return artifact - eager of each headline metric; a metric that the artifact lacks counts as 0."""
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
    session: Session,
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
        session: the loaded artifact.
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
    evaluator = Evaluator(dataset, session.artifact.contract.oks_sigmas)
    reached = evaluator.summarize(evaluate_images(session, records, evaluator, progress or Progress()))
    return compare_accuracy(eager, reached, tie=tie, precision=precision, budget=budget, least=least)


def compare_accuracy(
    eager: EagerAccuracy, reached: Evaluation, *, tie: float = 0.0, **limits: Any
) -> Accuracy:
    """Compare an artifact's metrics with the eager model's, in total and by image.

    Args:
        eager: the eager model's evaluation.
        reached: the artifact's, on the same images.
        tie: see ``measure_accuracy``.
        limits: ``precision``, ``budget`` and ``least`` of ``Accuracy``.
    """
    paired = paired_differences(eager, reached)
    return Accuracy(
        images=len(reached.image_ids),
        eager=eager.metrics,
        artifact=reached.metrics,
        intervals={name: one.interval for name, one in paired.items()},
        per_image={name: ImageDifferences.of(one.images, reached.image_ids) for name, one in paired.items()},
        tied=_tied(eager, reached, tie) if tie else {},
        **limits,
    )


def _tied(eager: EagerAccuracy, reached: Evaluation, tie: float) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest difference of each metric over all orders of equal scores."""
    tied = {}
    for name, expected in unpack_tallies(eager.tallies).items():
        actual = reached.tallies.get(name)
        if isinstance(expected, Matches) and isinstance(actual, Matches):
            (low, high), (actual_low, actual_high) = expected.extremes(tie), actual.extremes(tie)
            tied[name] = actual_low - high, actual_high - low
    return tied


def paired_differences(eager: EagerAccuracy, reached: Evaluation) -> Mapping[str, PairedDifference]:
    """Return the paired difference of each headline metric that both sides have tallies of."""
    tallies = unpack_tallies(eager.tallies)
    return {
        name: paired_difference(tallies[name], reached.tallies[name])
        for name in HEADLINES
        if name in tallies and name in reached.tallies and name in eager.metrics
    }


def evaluate_images(
    session: Session, records: list[CocoRecord], evaluator: Evaluator, progress: Progress
) -> Iterator[ImageEvaluation]:
    """Run an artifact on images, and yield the evaluation of each."""
    for record in tqdm(records, desc="task metric", unit="image"):
        evaluate = partial(_evaluate, session, record, evaluator)
        yield progress.once(f"task metric {record.image_id!r}", ImageEvaluation, evaluate)


def _evaluate(session: Session, record: CocoRecord, evaluator: Evaluator) -> ImageEvaluation:
    image = read_record(record, session.artifact.contract.channel_order)
    return evaluator.evaluate_image(record, predict(session, image))
