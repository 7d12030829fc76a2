"""The task metric: what an artifact finds of what is annotated, beside the eager model, image by image."""

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
from detexport.reference.progress import Progress
from detexport.reference.store import EagerAccuracy
from detexport.runtime.session import Session

FLOAT32 = "float32"
"""The precision of the eager model."""

TF32 = "tf32"
"""Float32 with the shorter mantissa of a GPU's matrix units: no target's, but a way to run the model."""

BUDGETS = {FLOAT32: 0.001, TF32: 0.002, "bf16": 0.005, "int8": 0.02}
"""How far each headline metric may lie from the eager model's, by precision; ``conf/parity`` has the same."""

MIN_ACCURACY = 0.1
"""An eager metric below this proves nothing; likewise."""

EQUAL = 1e-9
"""A difference that is the rounding of sums."""

MOST_WORST = 5


@dataclass(frozen=True)
class ImageDifferences:
    """How a metric on each image alone differs, see ``paired_difference``.

    Args:
        better: number of images on which the artifact's is higher.
        worse: lower.
        equal: as high.
        undefined: on which the metric is not defined, since there is nothing to judge.
        worst: ids of the images on which the artifact loses most, with the differences; none that is equal.
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
    """What an artifact reached, beside the eager model.

    Args:
        precision: ``"float32"``, ``"bf16"``, ``"int8"``.
        budget: how far each headline metric may lie from the eager model's.
        least: an eager metric below this proves nothing.
        images: number of images.
        eager: the eager model's metrics.
        artifact: the artifact's.
        intervals: of each headline metric's difference the 95 % interval of a paired bootstrap.
        per_image: of each headline metric, how it differs on the images.
        tied: of each metric that ranks detections across images, the least and the greatest difference that
            the order of equal scores decides between; in float32 alone.
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
        """The artifact's headline metrics less the eager model's; one that it does not have counts as 0."""
        return accuracy_deltas(self.eager, self.artifact)

    @property
    def notes(self) -> tuple[str, ...]:
        """What keeps the metrics from proving anything, whatever the artifact."""
        if not self.differences:
            return ("accuracy: the eager model has no metric to be held against",)
        return tuple(
            f"accuracy: eager {name} {self.eager[name]:.3f} proves nothing (at least {self.least:g} wanted)"
            for name in self.differences
            if not self.eager[name] >= self.least
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the artifact does not pass.

        Where the precision is reduced nothing else decides, so what proves nothing is a fault, too.
        """
        beyond = [
            f"accuracy: {name} {self.artifact.get(name, 0.0):.4f}, eager {self.eager[name]:.4f}, "
            f"difference {difference:+.4f}{self._interval(name)} (limit {self.budget:g})"
            for name, difference in self.differences.items()
            if not self._least_difference(name) <= self.budget
        ]
        return (*(() if self.precision == FLOAT32 else self.notes), *beyond)

    def _least_difference(self, name: str) -> float:
        """The least difference that is left if equal scores come in the order that suits the artifact."""
        low, high = self.tied.get(name, (self.differences[name],) * 2)
        return max(low, -high, 0.0) if np.isfinite([low, high]).all() else float("inf")

    def _interval(self, name: str) -> str:
        if name not in self.intervals:
            return ""
        low, high = self.intervals[name]
        return f" [{low:+.4f}, {high:+.4f}]"

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain JSON values."""
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
    """Evaluate an artifact on the images that the eager model was judged on.

    Args:
        session: the loaded artifact.
        eager: what the eager model reached.
        dataset: the validation split, with keypoints if there are any.
        precision: of the target.
        budget: see ``Accuracy``.
        least: see ``Accuracy``.
        tie: scores that differ by no more are equal, and their order decides nothing; 0 leaves that out.
        progress: what an earlier run has found, which this one goes on from.

    Raises:
        DataError: the data set lacks an image that the eager model was judged on, or the annotations.
    """
    records = records_of(dataset, eager.image_ids)
    judge = Evaluator(dataset, session.artifact.contract.oks_sigmas)
    reached = judge.conclude(findings(session, records, judge, progress or Progress()))
    return compare_accuracy(eager, reached, tie=tie, precision=precision, budget=budget, least=least)


def compare_accuracy(
    eager: EagerAccuracy, reached: Evaluation, *, tie: float = 0.0, **limits: Any
) -> Accuracy:
    """Hold what an artifact reached against what the eager model did, image by image.

    Args:
        eager: the eager model's.
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
    """The differences between which the order of equal scores on both sides decides."""
    tied = {}
    for name, mine in unpack_tallies(eager.tallies).items():
        other = reached.tallies.get(name)
        if isinstance(mine, Matches) and isinstance(other, Matches):
            (low, high), (other_low, other_high) = mine.extremes(tie), other.extremes(tie)
            tied[name] = other_low - high, other_high - low
    return tied


def paired_differences(eager: EagerAccuracy, reached: Evaluation) -> Mapping[str, PairedDifference]:
    """Each headline metric's difference that both have tallies of."""
    tallies = unpack_tallies(eager.tallies)
    return {
        name: paired_difference(tallies[name], reached.tallies[name])
        for name in HEADLINES
        if name in tallies and name in reached.tallies and name in eager.metrics
    }


def findings(
    session: Session, records: list[CocoRecord], judge: Evaluator, progress: Progress
) -> Iterator[ImageEvaluation]:
    """What an artifact finds on each image."""
    for record in tqdm(records, desc="task metric", unit="image"):
        look = partial(_look, session, record, judge)
        yield progress.once(f"task metric {record.image_id!r}", ImageEvaluation, look)


def _look(session: Session, record: CocoRecord, judge: Evaluator) -> ImageEvaluation:
    image = read_record(record, session.artifact.contract.channel_order)
    return judge.look(record, predict(session, image))
