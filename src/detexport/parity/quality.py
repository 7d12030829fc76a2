"""The verdict on reduced precision: not the numbers, but what is found, against the annotations."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from detexport.data.coco import CocoDataset, CocoRecord, read_image
from detexport.metrics.judge import HEADLINES, judge
from detexport.parity.outputs import Outputs
from detexport.parity.reference import EagerQuality
from detexport.predictions import predict
from detexport.runtime.session import Session

BUDGETS = {"bf16": 0.005, "int8": 0.02}
"""How far each headline metric may lie from the eager model's, by precision; ``conf/parity`` has the same."""

LEAST_QUALITY = 0.1
"""An eager metric below this proves nothing; likewise."""


@dataclass(frozen=True)
class Quality:
    """What an artifact of reduced precision reached, beside the eager model.

    Args:
        precision: ``"bf16"``, ``"int8"``.
        budget: how far each headline metric may lie from the eager model's.
        least: an eager metric below this proves nothing.
        images: number of images.
        eager: the eager model's metrics.
        artifact: the artifact's.
    """

    precision: str
    budget: float
    least: float
    images: int
    eager: dict[str, float]
    artifact: dict[str, float]

    @property
    def differences(self) -> dict[str, float]:
        """The artifact's headline metrics less the eager model's; one that it does not have counts as 0."""
        return {
            name: self.artifact.get(name, 0.0) - self.eager[name] for name in HEADLINES if name in self.eager
        }

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the artifact does not pass."""
        if not self.differences:
            return ("quality: the eager model has no metric to be held against",)
        weak = [
            f"quality: eager {name} {self.eager[name]:.3f} proves nothing (at least {self.least:g} wanted)"
            for name in self.differences
            if self.eager[name] < self.least
        ]
        beyond = [
            f"quality: {name} {self.artifact.get(name, 0.0):.4f}, eager {self.eager[name]:.4f}, "
            f"difference {difference:+.4f} (limit {self.budget:g})"
            for name, difference in self.differences.items()
            if not abs(difference) <= self.budget
        ]
        return (*weak, *beyond)

    def to_json(self) -> dict[str, Any]:
        """The measurement as plain JSON values."""
        return {**asdict(self), "differences": self.differences}


def measure_quality(
    session: Session,
    eager: EagerQuality,
    dataset: CocoDataset,
    *,
    precision: str,
    budget: float,
    least: float,
) -> Quality:
    """Judge an artifact on the images that the eager model was judged on.

    Args:
        session: the loaded artifact.
        eager: what the eager model reached.
        dataset: the validation split, with keypoints if there are any.
        precision: of the target.
        budget: see ``Quality``.
        least: see ``Quality``.
    """
    chosen = set(eager.image_ids)
    records = [record for record in dataset.images if record.image_id in chosen]
    metrics = judge(_predictions(session, records), dataset, eager.keypoint_sigmas)
    return Quality(precision, budget, least, len(records), eager.metrics, metrics)


def _predictions(session: Session, records: list[CocoRecord]) -> Iterator[tuple[CocoRecord, Outputs]]:
    order = session.artifact.contract.channel_order
    for record in tqdm(records, desc="quality", unit="image"):
        yield record, predict(session, read_image(record.file_name, order))
