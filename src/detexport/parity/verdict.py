"""The verdicts on one job: contract, numerics, matching, accuracy."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.outputs import Outputs, pack, unpack
from detexport.parity.accuracy import Accuracy
from detexport.parity.compare import SampleParity, Tolerance
from detexport.parity.compare.match_detections import OWN_RUNS
from detexport.parity.measures import measured
from detexport.parity.noise_floor import Limit
from detexport.reference.input_coverage import InputCoverage
from detexport.system.atomic import atomic_file
from detexport.system.files import write_json

if TYPE_CHECKING:
    from detexport.execution.sessions import Sessions


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about an artifact.

    Args:
        question: the question.
        evaluated: whether something was compared with a limit.
        reasons: why it did not pass; equal reasons of several inputs are one, with the number of inputs.
        note: what was excused, widened or left out.
    """

    question: str
    evaluated: bool
    reasons: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Return whether there is no reason against the artifact; also if nothing was evaluated."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values."""
        return {"passed": self.passed, **asdict(self)}


MOST_UNDETERMINED = 0.5
"""Largest fraction of the model's detections that may be undetermined and missing."""


@dataclass(frozen=True)
class Undetermined:
    """Undetermined detections: the model's own runs disagree about them.

    Args:
        inputs: number of inputs with undetermined detections.
        missing: number of undetermined detections that are missing (eager only).
        extra: number of undetermined detections that are extra (artifact only).
        expected: number of the model's detections on all inputs.
        determined: number of pairs that show that the outputs are equal (``SampleParity.determined``); of
            models without detections the number of such inputs.
        noise_dominated: names of the limits that the model's own error exceeds by far, by input.
        why: number of undetermined detections in words, by input.
    """

    inputs: int
    missing: int
    extra: int
    expected: int
    determined: int
    noise_dominated: dict[str, tuple[str, ...]]
    why: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ParityReport:
    """The verdicts on one job, with the measurements.

    Args:
        job: the job's name.
        artifact_sha256: the artifact that was run.
        tolerance: the limits, widened to the noise floor; None in reduced precision, which has none.
        contract: the artifact's; its outputs decide what is measured.
        samples: the measurement of each sample, by id.
        faults: faults of the whole artifact or of the reference.
        accuracy: metrics against ground truth; None if not measured.
        limits: each limit with the noise floor; empty if that was not measured.
        noise_floor_unmatched: see ``NoiseFloor.unmatched``.
        coverage: what the samples cover.
        unsupported_inputs: why a sample is outside the declared support, by id.
        worst: ids of the samples with the largest errors, the worst first, of different images.
        drawn: the runtime's outputs on those of them that have any, for drawing; not part of the JSON.
    """

    job: str
    artifact_sha256: str
    tolerance: Tolerance | None
    contract: Contract
    samples: dict[str, SampleParity]
    faults: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    limits: tuple[Limit, ...] = ()
    noise_floor_unmatched: int = 0
    coverage: InputCoverage | None = None
    unsupported_inputs: dict[str, str] = field(default_factory=dict)
    worst: tuple[str, ...] = ()
    drawn: dict[str, Outputs] = field(default_factory=dict, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Return whether every verdict passed."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why the job did not pass, verdict by verdict."""
        return tuple(reason for verdict in self.verdicts.values() for reason in verdict.reasons)

    @property
    def lacks_detections(self) -> bool:
        """Return whether the model detects nothing on any sample, so that no detection was compared."""
        detects = any(sample.expected for sample in self.samples.values())
        return bool(self.contract.row_names) and not detects

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """Return the four verdicts; each fault is reported by one of them.

        ``contract``: the artifact loads, runs on every input that it declares support for, and returns the
        fields, types and shapes of its contract, finite, in descending order of scores.
        ``numerics``: numerical errors of paired detections. ``matching``: missing and extra detections.
        ``accuracy``: AP against ground truth, compared with the eager model's.
        """
        samples = self.samples.values()
        excused = [one for sample in samples for one in (*sample.missing, *sample.extra) if one.excused]
        return {
            "contract": Verdict(
                "Does it run, with the outputs that its contract declares?",
                True,
                (*self.faults, *self._reasons_of(lambda sample: sample.broken)),
                f"{len(self.unsupported_inputs)} inputs outside the declared support"
                if self.unsupported_inputs
                else "",
            ),
            "numerics": Verdict(
                "Are the numbers of paired detections equal, within the tolerance?",
                self.tolerance is not None,
                self._reasons_of(lambda sample: sample.numerics),
                "; ".join(self._numerics_notes()),
            ),
            "matching": Verdict(
                "Does it return the same detections, none missing and none extra?",
                self.tolerance is not None,
                (
                    *self._nothing_determined(),
                    *self._keypoint_faults(),
                    *self._reasons_of(lambda sample: sample.matching),
                ),
                "; ".join(self._matching_notes(len(excused))),
            ),
            "accuracy": Verdict(
                "Does it reach the eager model's accuracy against ground truth?",
                self.accuracy is not None or self.tolerance is None,
                self.accuracy.faults if self.accuracy else self._without_evidence(),
                "; ".join(self.accuracy.notes) if self.accuracy else "not measured",
            ),
        }

    def _matching_notes(self, excused: int) -> Iterator[str]:
        undetermined = self.undetermined
        at_edges = excused - undetermined.missing - undetermined.extra
        if at_edges:
            yield f"excused as rounding: {at_edges} missing or extra"
        if undetermined.missing or undetermined.extra:
            yield (
                f"undetermined on {undetermined.inputs} inputs: {undetermined.missing} of "
                f"{undetermined.expected} detections missing, {undetermined.extra} extra; the model's own "
                "runs disagree about them"
            )
        if self.noise_floor_unmatched:
            yield f"noise floor: {self.noise_floor_unmatched} missing or extra between the model's own runs"

    @property
    def undetermined(self) -> "Undetermined":
        """Count the detections that the model's own runs disagree about."""
        samples = self.samples
        counts = [sample.undetermined for sample in samples.values()]
        return Undetermined(
            inputs=sum(bool(missing or extra) for missing, extra in counts),
            missing=sum(missing for missing, _ in counts),
            extra=sum(extra for _, extra in counts),
            expected=sum(sample.expected for sample in samples.values()),
            determined=sum(sample.determined for sample in samples.values()),
            noise_dominated={
                id: sample.noise_dominated for id, sample in samples.items() if sample.noise_dominated
            },
            why={
                id: f"{missing} of {samples[id].expected} missing and {extra} extra: {OWN_RUNS}"
                for (id, (missing, extra)) in zip(samples, counts, strict=True)
                if missing or extra
            },
        )

    def _nothing_determined(self) -> tuple[str, ...]:
        """Return why matching fails: nothing is determined, or too many detections are undetermined."""
        if self.tolerance is None or not self.samples:
            return ()
        counts = self.undetermined
        if not (counts.missing or counts.noise_dominated):
            return ()
        if counts.determined and counts.missing <= MOST_UNDETERMINED * counts.expected:
            return ()
        return (
            f"too little is determined: {counts.missing} of {counts.expected} detections are missing, and "
            f"the model's own runs disagree about them; {counts.determined} are paired and agree within the "
            "model's noise or the tolerance",
        )

    def _without_evidence(self) -> tuple[str, ...]:
        """Return why accuracy fails: a target of reduced precision was not evaluated."""
        if self.tolerance is not None or self.faults:
            return ()
        return ("not measured, and reduced precision is evaluated by accuracy alone: give annotated images",)

    def _numerics_notes(self) -> Iterator[str]:
        """Yield the limits that were widened to the model's own noise, and the inputs that it dominates."""
        wider = [f"{limit.name} {limit.effective:.3g}" for limit in self.limits if limit.widened]
        if wider:
            yield f"limits widened to the model's own noise: {', '.join(wider)}"
        noise_dominated = self.undetermined.noise_dominated
        if noise_dominated:
            names = ", ".join(sorted({name for names in noise_dominated.values() for name in names}))
            yield (
                f"undetermined on {len(noise_dominated)} inputs, since the model's own error exceeds the "
                f"tolerance by far: {names}"
            )

    @property
    def keypoint_flip_ratio(self) -> float | None:
        """Return the fraction of all keypoints that are in another heatmap cell; None without keypoints."""
        samples = [one for one in self.samples.values() if "keypoint_flip_ratio" not in one.noise_dominated]
        compared = sum(sample.keypoints for sample in samples)
        flipped = sum(sample.keypoint_flips for sample in samples)
        return flipped / compared if compared else None

    def _reasons_of(self, reasons_of: Callable[[SampleParity], Iterable[str]]) -> tuple[str, ...]:
        """Return the samples' reasons with their ids; equal reasons are one."""
        ids_by_reason: dict[str, list[str]] = {}
        for id, sample in self.samples.items():
            for reason in reasons_of(sample):
                ids_by_reason.setdefault(reason, []).append(id)
        return tuple(
            f"{first} and {len(others)} more: {reason}" if others else f"{first}: {reason}"
            for reason, (first, *others) in ids_by_reason.items()
        )

    def _keypoint_faults(self) -> tuple[str, ...]:
        if self.tolerance is None:
            return ()
        ratio, limit = self.keypoint_flip_ratio or 0.0, self.tolerance.keypoint_flip_ratio
        return (
            (f"keypoints: {ratio:.2%} of all in another heatmap cell (limit {limit:.2%})",)
            if ratio > limit
            else ()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values; an error is null if nothing was compared."""
        samples = self.samples.values()
        return {
            "job": self.job,
            "passed": self.passed,
            "verdicts": {name: verdict.to_json() for name, verdict in self.verdicts.items()},
            "reasons": list(self.reasons),
            "tolerance": asdict(self.tolerance) if self.tolerance else None,
            "limits": [{**asdict(limit), "widened": limit.widened} for limit in self.limits],
            "input_coverage": self._coverage(),
            "accuracy": self.accuracy.to_json() if self.accuracy else None,
            "artifact_sha256": self.artifact_sha256,
            "max": {name: self._largest(name) for name in self._measured()},
            "detections": {
                "expected": sum(sample.expected for sample in samples),
                "actual": sum(sample.actual for sample in samples),
                "paired": sum(sample.paired for sample in samples),
            },
            "unmatched": self._unmatched(),
            "noise_floor_unmatched": self.noise_floor_unmatched,
            "undetermined": self.undetermined.to_json(),
            "unsupported_inputs": self.unsupported_inputs,
            "worst": list(self.worst),
            "samples": [{"id": id, **sample.to_json()} for id, sample in self.samples.items()],
        }

    def _coverage(self) -> dict[str, Any] | None:
        """Return what the samples cover, and the gaps."""
        coverage = self.coverage
        return {**asdict(coverage), "gaps": list(coverage.gaps)} if coverage else None

    def _unmatched(self) -> list[dict[str, Any]]:
        """Return the missing and extra detections, with the decision that excluded each.

        Those that are not excused come first.
        """
        unmatched = [
            {"sample": id, "side": side, **asdict(one)}
            for id, sample in self.samples.items()
            for side, detections in (("missing", sample.missing), ("extra", sample.extra))
            for one in detections
        ]
        return sorted(unmatched, key=lambda one: one["excused"])

    def with_accuracy(
        self, sessions: "Sessions", measure: "Callable[[Sessions], Accuracy]"
    ) -> "ParityReport":
        """Return this report with the artifact's metrics; an error that the artifact raises is a fault."""
        try:
            accuracy = measure(sessions)
        except (DataError, MemoryError):  # a fault of the data or the machine, not of the artifact
            raise
        except Exception as error:
            return replace(self, faults=(*self.faults, f"accuracy: {type(error).__name__}: {error}"))
        return replace(self, accuracy=accuracy)

    def without_limits(self) -> "ParityReport":
        """Return this report for reduced precision: numerical errors are reported and have no limits.

        Outputs that could not be compared stay reasons.
        """
        samples = {
            id: replace(sample, numerics=(), matching=(), box_limit_px=None)
            for id, sample in self.samples.items()
        }
        return replace(self, tolerance=None, samples=samples)

    def _measured(self) -> list[str]:
        return measured((*self.contract.output_names, *self.contract.results))

    def _largest(self, name: str) -> float | None:
        if name == "keypoint_flip_ratio":
            return self.keypoint_flip_ratio
        return max((one.errors[name] for one in self.samples.values() if name in one.errors), default=None)

    def save(self, path: Path, drawn_path: Path) -> None:
        """Write the JSON, and the drawn samples' outputs as a file of arrays."""
        arrays = {
            f"{id}/{name}": value
            for id, outputs in self.drawn.items()
            for name, value in pack(outputs).items()
        }
        with atomic_file(drawn_path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        write_json(path, self.to_json())


def read_drawn(path: Path) -> dict[str, Outputs]:
    """Read the outputs that ``ParityReport.save`` wrote, by sample id."""
    with np.load(path) as arrays:
        ids = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files)
        return {
            id: unpack(
                {
                    name.removeprefix(f"{id}/"): arrays[name]
                    for name in arrays.files
                    if name.startswith(f"{id}/")
                }
            )
            for id in ids
        }
