"""Read a parity report: the verdict on one job."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from detexport.errors import DataError, listed
from detexport.parity.compare import Tolerance
from detexport.results.read import read_result


class Sample(TypedDict):
    """What is read of a sample; it has more."""

    passed: bool
    errors: NotRequired[dict[str, float]]
    widened: NotRequired[dict[str, float]]


class Detections(TypedDict):
    """Numbers of detections in all samples."""

    expected: int
    actual: int
    paired: int


class TaskMetrics(TypedDict):
    """The task metrics of the artifact, and their differences from the eager model's."""

    artifact: dict[str, float]
    differences: dict[str, float]
    budget: float


class ParityReport(TypedDict):
    """The entries of a parity report that are read; the report has others."""

    passed: bool
    reasons: list[str]
    max: dict[str, float | None]
    detections: Detections
    samples: list[Sample]
    tolerance: dict[str, float] | None
    accuracy: NotRequired[TaskMetrics | None]


def read_parity_report(path: Path, *, registered: bool = False) -> dict[str, Any]:
    """Read a parity report.

    Args:
        path: the file.
        registered: whether it may be older than this program, which may have limits that the report lacks.

    Raises:
        DataError: the file is missing or is not a parity report.
    """
    verdict = read_result(path, ParityReport, "parity report", "validate")
    limits = {one.name for one in fields(Tolerance)}
    given = verdict["tolerance"]
    if given is not None and not registered and not limits <= given.keys():
        raise DataError(
            f"{path} is not a parity report",
            got=f"no limit {listed(sorted(limits - given.keys()))}",
            expected="a tolerance with all its limits",
            remedy="run the stage `validate` again",
        )
    return verdict
