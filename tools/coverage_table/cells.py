"""The cells of the table: the result of one model x one target."""

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
        architecture: the name of its architecture.
        target: the target's name in ``conf/export``.
        status: ``ok``; ``failed``; ``unsupported``, declared in ``conf/unsupported.yaml``; ``skipped``, since
            this machine lacks a requirement.
        reason: why it is not ``ok``; or that it is, against its declaration.
        dynamic_size: whether the samples passed at the exported size, a smaller, a larger and an odd one;
            null: not measured. In reduced precision a sample passes if its outputs fulfil the contract, since
            only the task metric is evaluated.
        batch: batch size, ``"1"`` or ``"any"``; empty without an artifact.
        zero_detections: whether the samples without detections passed, in the same sense; null if the model
            outputs rows on every image, or not measured.
        fresh_process: whether the artifact ran in a process that could not import the models' code.
        errors: the largest error by measure, see ``detexport.parity.measures``; in reduced precision the
            delta of each metric vs eager.
        export_s: seconds from the model to the artifact, conversions included.
        peak_bytes: peak memory of these steps.
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
        """Return the cell as plain JSON values."""
        return asdict(self)


def pairs_of(experiment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the model and the target of each cell of the table, in its order.

    Args:
        experiment: ``conf/experiment/coverage.yaml``.
    """
    options = {name: value for entry in experiment["defaults"] for name, value in entry.items()}
    return [(m, t) for m in options["override /model"] for t in options["override /export"]]


def status_of(outcome: Outcome, faults: Sequence[str], declared: str | None) -> tuple[str, str]:
    """Return status and reason of a cell.

    Args:
        outcome: that of the first step to the verdict that is not ``ok``, or of the last step.
        faults: the reasons why the artifact did not pass.
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
    """The kinds of a reference's samples.

    Args:
        sizes: ids of the samples of the exported size, with both sides smaller, larger, odd.
        counts: ids of the samples with no, one and many detections; empty for a model whose number of rows
            is constant, or that outputs none.
    """

    sizes: dict[str, set[str]]
    counts: dict[str, set[str]]

    @property
    def gaps(self) -> list[str]:
        """The kinds of samples that the reference lacks, in words."""
        lacking = [f"of {name} size" for name, ids in self.sizes.items() if not ids]
        lacking += [f"with {count} detections" for count, ids in self.counts.items() if not ids]
        return [f"the reference has no sample {kind}" for kind in lacking]


def group_samples(samples: Sequence[Sample], contract: Contract, exported: tuple[int, int]) -> Kinds:
    """Group samples by size and number of detections.

    Args:
        samples: those of a reference.
        contract: that of the reference's model.
        exported: height and width of the image that the model was exported with.
    """
    sizes: dict[str, set[str]] = {name: set() for name in SIZES}
    counts: dict[str, set[str]] = {name: set() for name in COUNTS} if "scores" in contract.row_names else {}
    for sample in samples:
        if sample.meta.batch:  # an artifact of batch size 1 does not run it
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
    """Return the fields of a cell that a verdict determines.

    Args:
        verdict: that of the stage ``validate``, written in a process without the models' code.
        kinds: groups of the reference's samples.
        artifact: the artifact of the verdict.
    """
    passed = {sample["id"] for sample in verdict["samples"] if sample["passed"]}
    # Without limits for numerical errors, the task metric alone decided.
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
    """Return the cell of a job.

    Args:
        job: its model, target and artifact.
        architecture: the name of the model's architecture.
        steps: the steps to its verdict; the last one writes it.
        outcomes: outcome of each step, by name.
        folder: the folder in which the steps ran.
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
        kinds = group_samples(read_reference(written["reference"]).samples, artifact.contract, exported)
        verdict = read_json(written["validate"])
        faults = [*verdict["reasons"], *kinds.gaps]
        measured |= measured_in(verdict, kinds, artifact)
    status, reason = status_of(last, faults, declared)
    return Cell(job["model"], architecture, job["target"], status, reason, **measured)
