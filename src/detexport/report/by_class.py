"""Accuracy by class: AP, PQ or IoU of each class, of the eager model and of each artifact."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detexport.report.collect import ReportedJob
from detexport.results.job_metrics import accuracy_words

CLASS_METRICS = {"panoptic/PQ": "PQ", "sem_seg/mIoU": "IoU"}
"""Words for the metric of one class, where they are not those of the mean."""


@dataclass(frozen=True)
class ClassRow:
    """The metric of one class.

    Args:
        name: the class.
        objects: number of annotated objects or segments; None where pixels count.
        eager: the eager model's metric; None if it is undefined.
        artifacts: the artifacts' metric, by target.
    """

    name: str
    objects: int | None
    eager: float | None
    artifacts: dict[str, float | None] = field(default_factory=dict)


def class_rows(jobs: Sequence[ReportedJob], metric: str) -> list[ClassRow]:
    """Return the classes of one model's jobs with a metric; empty if none was evaluated by class.

    Args:
        jobs: the model's jobs.
        metric: name of the task metric.
    """
    rows: dict[str, ClassRow] = {}
    for job in jobs:
        for name, one in _per_class(job).get(metric, {}).items():
            row = rows.setdefault(name, ClassRow(name, one["objects"], one["eager"]))
            row.artifacts[job.target] = one["artifact"]
    return list(rows.values())


def measured_metrics(jobs: Sequence[ReportedJob]) -> dict[str, str]:
    """Return name and words of the metrics that were measured by class."""
    names = dict.fromkeys(name for job in jobs for name in _per_class(job))
    return {name: CLASS_METRICS.get(name, accuracy_words(name)) for name in names}


def _per_class(job: ReportedJob) -> dict[str, dict[str, dict[str, Any]]]:
    return (job.parity.get("accuracy") or {}).get("per_class") or {}
