"""The summary of one retraining run: a JSON file and a page."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detexport.errors import VERDICT
from detexport.retraining.data_checks import DataCheck
from detexport.system.atomic import atomic_file
from detexport.system.files import write_json

UNCHANGED, PROMOTED, REFUSED, FAILED = "unchanged", "promoted", "refused", "failed"
PARTLY_PROMOTED = "partly promoted"
PASSED, DIFFERS, ACCEPTED, NOT_COMPARED = "passed", "differs", "accepted", "not compared"
"""Results of a comparison with a champion."""
TEMPLATE = "summary.html.jinja"


@dataclass(frozen=True)
class Step:
    """One step of a retraining run.

    Args:
        name: what was done.
        duration_s: how long it took, in seconds.
    """

    name: str
    duration_s: float


@dataclass
class Summary:
    """What a retraining run did.

    Args:
        project: the project's folder.
        started_at: ISO 8601, UTC.
        outcome: ``"unchanged"``, ``"promoted"``, ``"refused"``, ``"failed"``, or ``"partly promoted"`` if a
            version was promoted and another one refused.
        exit_code: the exit code of the command.
        reasons: why something was refused or failed, or was not compared.
        resumed: whether it completed a run that was interrupted.
        environment: what changed in the environment since the last export: ``torch 2.15.0 -> 2.16.0``.
        stale: the stages and data that were out of date.
        steps: the steps with their duration.
        data: the comparison with the champion's data.
        parity: for each job whose model is the champion's, whether its new artifact returns the same:
            ``"passed"``, ``"differs"``, ``"accepted"`` if it differs and that is accepted, or ``"not
            compared"``.
        decisions: the decisions about ``champion``: see ``outputs/promoted.json``.
        pushed: whether data and results were uploaded.
    """

    project: str
    started_at: str
    outcome: str = FAILED
    exit_code: int = 0
    reasons: list[str] = field(default_factory=list)
    resumed: bool = False
    environment: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    data: list[DataCheck] = field(default_factory=list)
    parity: dict[str, str] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    pushed: bool = False

    @property
    def duration_s(self) -> float:
        """Seconds that all steps took."""
        return sum(step.duration_s for step in self.steps)

    def refuse(self, *reasons: str) -> None:
        """End the run as refused."""
        self.outcome, self.exit_code = REFUSED, VERDICT
        self.reasons += reasons

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return {**asdict(self), "duration_s": round(self.duration_s, 1)}

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        moved = [
            f"{one['name']} version {one['version']}: {one['decision']}"
            for one in self.decisions
            if one["version"]
        ]
        return [
            f"{self.outcome} in {self.duration_s:.1f} s",
            *moved,
            *(f"  the environment changed: {change}" for change in self.environment),
            *(f"  {reason}" for reason in self.reasons),
        ]


def write_summary(summary: Summary, folder: Path) -> None:
    """Write ``retraining.json`` and ``retraining.html`` into a folder."""
    write_json(folder / "retraining.json", summary.to_json())
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("detexport.retraining", "templates")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(TEMPLATE)
    with atomic_file(folder / "retraining.html") as temporary:
        temporary.write_text(page.render(summary=summary), encoding="utf-8")
