"""The validation plan of a verdict: the inputs, limits and budgets that it was reached with.

It is part of the certificate, so that a registry can require a plan that is not weaker than its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from detexport.parity.accuracy import Accuracy
from detexport.parity.compare.tolerance import STRICTER_IF_HIGHER
from detexport.parity.settings import ParitySettings
from detexport.reference.input_kinds import BATCH, MADE, TIES
from detexport.reference.store import DATA, Reference

ALWAYS = (*MADE, TIES, BATCH)
"""Kinds of edge-case inputs that every model can have; the others are searched for."""
CLOSER_IF_LOWER = ("threshold_distance", "offset")
"""Numbers of the search that are stricter the lower they are."""


@dataclass(frozen=True)
class ValidationPlan:
    """What one verdict was reached with.

    Args:
        images: number of images of the data set among the inputs.
        scales: their scales, ascending.
        kinds: number of inputs of each kind.
        search: limits of the search for edge-case inputs, see ``Plan``.
        tolerance: the configured limits, before they are widened to the noise floor.
        precision: precision of the target.
        accuracy_images: number of annotated images that AP was measured on; 0: not measured.
        budget: largest difference of AP from the eager model's; None if AP was not measured.
        min_accuracy: a lower eager AP is too low to compare with.
        min_detections: a reference with fewer detections fails.
    """

    images: int
    scales: tuple[float, ...]
    kinds: dict[str, int]
    search: dict[str, float]
    tolerance: dict[str, float]
    precision: str
    accuracy_images: int = 0
    budget: float | None = None
    min_accuracy: float = 0.0
    min_detections: int = 0

    @classmethod
    def of(
        cls, reference: Reference, settings: ParitySettings, precision: str, accuracy: Accuracy | None
    ) -> "ValidationPlan":
        """Describe a validation from its inputs, settings and result."""
        from_data = [sample.meta for sample in reference.samples if sample.meta.kind == DATA]
        return cls(
            images=len({meta.file for meta in from_data}),
            scales=tuple(sorted({meta.scale for meta in from_data})),
            kinds=dict(reference.coverage.kinds),
            search=search_of(settings),
            tolerance=asdict(settings.tolerance),
            precision=precision,
            accuracy_images=accuracy.images if accuracy else 0,
            budget=accuracy.budget if accuracy else None,
            min_accuracy=settings.min_accuracy,
            min_detections=settings.min_detections,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        return {**asdict(self), "scales": list(self.scales)}


def search_of(settings: ParitySettings) -> dict[str, float]:
    """Return the limits of the search for edge-case inputs."""
    return {name: value for name, value in asdict(settings.plan).items() if name not in ("scales", "kinds")}


def plan_weaknesses(plan: Mapping[str, Any], required: ParitySettings) -> list[str]:
    """Return in what a plan is weaker than required; empty if it is not.

    Args:
        plan: ``ValidationPlan.to_json`` from a certificate.
        required: the weakest plan to accept.
    """
    return list(_weaknesses(plan, required))


def _weaknesses(plan: Mapping[str, Any], required: ParitySettings) -> Iterator[str]:
    yield from _fewer("images", plan["images"], required.images)
    missing = sorted(set(required.scales) - {*plan["scales"]})
    if missing:
        yield f"scales: {_listed(plan['scales'])}, required also {_listed(missing)}"
    absent = [kind for kind in ALWAYS if not plan["kinds"].get(kind)]
    if absent:
        yield f"kinds of inputs: no {', no '.join(absent)}"
    for name, wanted in search_of(required).items():
        measured = plan["search"].get(name)
        yield from (_more if name in CLOSER_IF_LOWER else _fewer)(f"inputs.{name}", measured, wanted)
    for name, wanted in asdict(required.tolerance).items():
        measured = plan["tolerance"].get(name)
        yield from (_fewer if name in STRICTER_IF_HIGHER else _more)(f"tolerance.{name}", measured, wanted)
    yield from _fewer("min_detections", plan["min_detections"], required.min_detections)
    precision = plan["precision"]
    if precision in required.accuracy_precisions:
        yield from _fewer("accuracy_images", plan["accuracy_images"], required.accuracy_images)
        yield from _fewer("min_accuracy", plan["min_accuracy"], required.min_accuracy)
    if plan["budget"] is not None:
        yield from _more(f"budgets.{precision}", plan["budget"], required.budgets.get(precision, 0.0))


def _fewer(name: str, measured: float | None, wanted: float) -> Iterator[str]:
    if measured is None:
        yield f"{name}: not in the certificate, required at least {wanted:g}"
    elif measured < wanted:
        yield f"{name}: {measured:g}, required at least {wanted:g}"


def _more(name: str, measured: float | None, wanted: float) -> Iterator[str]:
    if measured is None:
        yield f"{name}: not in the certificate, required at most {wanted:g}"
    elif measured > wanted:
        yield f"{name}: {measured:g}, required at most {wanted:g}"


def _listed(numbers: Any) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
