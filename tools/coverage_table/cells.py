"""The cells of the table: what a model's verdict on a target says of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coverage_table.run import OK, UNAVAILABLE, Outcome
from coverage_table.steps import Step
from detexport.artifact import Artifact, read_artifact
from detexport.contract import Contract
from detexport.reference.store import Sample, read_reference
from detexport.system.files import read_json
from detexport.workflows.sample_folder import read_sample

STATUSES = ("ok", "failed", "unsupported", "skipped")


@dataclass(frozen=True)
class Cell:
    """One model x one target.

    Args:
        model: the model's name in ``conf/model``.
        architecture: what it is an example of.
        target: the target's name in ``conf/export``.
        status: ``ok``; ``failed``; ``unsupported``, declared beforehand in ``conf/unsupported.yaml``;
            ``skipped``, because this machine lacks what it needs.
        reason: why it is not ``ok``; or that it is, against its declaration.
        dynamic_size: it was right at the exported size, a smaller, a larger and an odd one; null: not
            measured. Of reduced precision, which the task metric alone judges, a sample is right where it ran
            and gave what the contract says.
        batch: images a call takes: ``"1"`` or ``"any"``; empty without an artifact.
        zero_detections: it was right, likewise, where there is nothing to detect; null where the model always
            gives something, or it was not measured.
        fresh_process: the artifact ran in a process in which the models' code could not be imported.
        errors: the largest error by measure, see ``detexport.parity.measures``; for reduced precision each
            metric less the eager model's.
        export_s: seconds from the model to the artifact, conversions included.
        peak_bytes: the most memory that one of these steps held.
    """

    model: str
    architecture: str
    target: str
    status: str
    reason: str = ""
    dynamic_size: bool | None = None
    batch: str = ""
    zero_detections: bool | None = None
    fresh_process: bool | None = None
    errors: dict[str, float | None] = field(default_factory=dict)
    export_s: float | None = None
    peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The cell as plain JSON values."""
        return asdict(self)


def pairs_of(experiment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The model and the target of each cell of the table, in its order.

    Args:
        experiment: ``conf/experiment/coverage.yaml``.
    """
    options = {name: value for entry in experiment["defaults"] for name, value in entry.items()}
    return [(m, t) for m in options["override /model"] for t in options["override /export"]]


def status_of(outcome: Outcome, faults: Sequence[str], declared: str | None) -> tuple[str, str]:
    """Status and reason of a cell.

    Args:
        outcome: of the steps that lead to the verdict: the first that is not ``ok``, or the last.
        faults: what the verdict holds against the artifact.
        declared: the reason why the pair was declared unsupported, if it was.
    """
    if outcome.status == UNAVAILABLE:
        return "skipped", outcome.reason
    reason = outcome.reason if outcome.status != OK else "; ".join(faults)
    if not reason:
        return "ok", f"works, though conf/unsupported.yaml says: {declared}" if declared else ""
    return ("unsupported", declared) if declared else ("failed", reason)


SIZES = ("exported", "smaller", "larger", "odd")
COUNTS = ("no", "one", "many")


@dataclass(frozen=True)
class Kinds:
    """Which samples of a reference are of which kind.

    Args:
        sizes: ids of the samples of the exported size, with both sides smaller, larger, odd.
        counts: ids of the samples with no, one and many detections; empty where a model gives
            as many rows, or none, on any image.
    """

    sizes: dict[str, set[str]]
    counts: dict[str, set[str]]

    @property
    def gaps(self) -> list[str]:
        """What the reference does not show, in words."""
        lacking = [f"of {name} size" for name, ids in self.sizes.items() if not ids]
        lacking += [f"with {count} detections" for count, ids in self.counts.items() if not ids]
        return [f"the reference has no sample {kind}" for kind in lacking]


def kinds_of(samples: Sequence[Sample], contract: Contract, exported: tuple[int, int]) -> Kinds:
    """Sort samples by size and number of detections.

    Args:
        samples: of a reference.
        contract: of the model that the reference was made with.
        exported: height and width of the image that the model was exported with.
    """
    sizes: dict[str, set[str]] = {name: set() for name in SIZES}
    counts: dict[str, set[str]] = {name: set() for name in COUNTS} if "scores" in contract.row_names else {}
    for sample in samples:
        if sample.meta.batch:  # an artifact that takes one image in a call is not asked for it
            continue
        for name in _sizes(sample.meta.image_size, exported):
            sizes[name].add(sample.meta.id)
        if counts:
            counts[COUNTS[min(sample.detections, 2)]].add(sample.meta.id)
    return Kinds(sizes, counts)


def _sizes(size: tuple[int, int], exported: tuple[int, int]) -> Iterable[str]:
    if size == exported:
        yield "exported"
    if all(side < other for side, other in zip(size, exported, strict=True)):
        yield "smaller"
    if all(side > other for side, other in zip(size, exported, strict=True)):
        yield "larger"
    if all(side % 2 for side in size):
        yield "odd"


def measured_in(verdict: Mapping[str, Any], kinds: Kinds, artifact: Artifact) -> dict[str, Any]:
    """The fields of a cell that a verdict on an artifact shows.

    Args:
        verdict: as the stage ``validate`` wrote it, in a process without the models' code.
        kinds: of the samples that it was made with.
        artifact: what it is on.
    """
    passed = {sample["id"] for sample in verdict["samples"] if sample["passed"]}
    # Without limits of errors, the task metric alone decided.
    by_task = verdict["accuracy"] and verdict["tolerance"] is None
    return {
        "dynamic_size": all(ids and ids <= passed for ids in kinds.sizes.values()),
        "batch": artifact.batch,
        "zero_detections": kinds.counts["no"] <= passed if kinds.counts.get("no") else None,
        "fresh_process": bool(verdict["samples"]),
        "errors": dict(verdict["accuracy"]["differences"] if by_task else verdict["max"]),
    }


def cell_of(
    job: Mapping[str, str],
    architecture: str,
    steps: Sequence[Step],
    outcomes: Mapping[str, Outcome],
    folder: Path,
    declared: str | None,
) -> Cell:
    """What became of a job.

    Args:
        job: its model, target and artifact.
        architecture: what the model is an example of.
        steps: that lead to its verdict; the last one writes it.
        outcomes: of the steps, by name.
        folder: where the steps ran.
        declared: the reason why the pair was declared unsupported, if it was.
    """
    last = outcomes[steps[-1].name]
    written = {step.stage: folder / step.outs[-1] for step in steps}
    made = [step for step in steps if step.stage in ("export", "convert")]
    measured: dict[str, Any] = {}
    faults: list[str] = []
    if all(outcomes[step.name].status == OK for step in made):
        measured["export_s"] = round(sum(outcomes[step.name].seconds for step in made), 1)
        measured["peak_bytes"] = max(outcomes[step.name].peak_bytes for step in made)
    if last.status == OK:
        artifact = read_artifact(folder / made[-1].outs[-1])
        exported = read_sample(written["sample"]).shape[1:]
        kinds = kinds_of(read_reference(written["reference"]).samples, artifact.contract, exported)
        verdict = read_json(written["validate"])
        faults = [*verdict["reasons"], *kinds.gaps]
        measured |= measured_in(verdict, kinds, artifact)
    status, reason = status_of(last, faults, declared)
    return Cell(job["model"], architecture, job["target"], status, reason, **measured)
