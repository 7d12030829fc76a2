"""The numerical errors of a job: the largest of each, with its limit and the model's own noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detexport.parity.measures import MEASURES
from detexport.parity.settings import stored_tolerance
from detexport.parity.worst_images import fractions_of_limits
from detexport.report.collect import ReportedJob, ReportedModel
from detexport.report.number_format import DASH, number


@dataclass(frozen=True)
class ErrorRow:
    """One measure of a job.

    Args:
        words: what is measured.
        error: the largest error on any input.
        limit: the limit in words; a dash if the measure has none.
        floor: the largest error between the eager model's own runs; a dash if it was not measured.
        fraction: largest error as a fraction of its limit on that input; None without a limit.
    """

    words: str
    error: str
    limit: str
    floor: str
    fraction: float | None


def error_rows(job: ReportedJob, model: ReportedModel) -> tuple[ErrorRow, ...]:
    """Return the measures of a job, those with a limit first."""
    parity = job.parity
    floors = {limit["name"]: limit["floor"] for limit in parity.get("limits", [])}
    fractions = largest_fractions(job, model)
    rows = []
    for name, measure in MEASURES.items():
        if name not in parity.get("max", {}):
            continue
        tolerance, floor = parity["tolerance"], floors.get(measure.tolerance)
        limit = measure.limit.format(**tolerance) if measure.limit and tolerance else DASH
        rows.append(
            ErrorRow(
                measure.words,
                number(parity["max"][name], measure.unit),
                limit,
                DASH if floor is None else number(floor, measure.unit),
                fractions.get(name),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.limit == DASH))


def largest_fraction(job: ReportedJob, model: ReportedModel) -> float | None:
    """Return the largest error on any input as a fraction of its limit; None if there are no limits."""
    return max(largest_fractions(job, model).values(), default=None)


def largest_fractions(job: ReportedJob, model: ReportedModel) -> dict[str, float]:
    """Return the same for each measure by name; empty for reduced precision."""
    limits = job.parity.get("tolerance")
    if limits is None:
        return {}
    scales = {sample["id"]: _scale(sample) for sample in model.reference.get("samples", [])}
    largest: dict[str, float] = {}
    for sample in job.parity["samples"]:
        tolerance = stored_tolerance({**limits, **sample.get("widened", {})})
        errors = fractions_of_limits(sample.get("errors", {}), tolerance, scales.get(sample["id"], 1.0))
        for name, fraction in errors.items():
            largest[name] = max(largest.get(name, 0.0), fraction)
    return largest


def _scale(sample: Mapping[str, Any]) -> float:
    """Return output size / image size of a stored sample, the larger of both sides."""
    return max(o / i for o, i in zip(sample["output_size"], sample["image_size"], strict=True))
