"""The verdicts on one job: contract, numerics, matching, accuracy."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.outputs import Outputs, pack, unpack
from detexport.parity.accuracy import Accuracy
from detexport.parity.compare import SampleParity, Tolerance
from detexport.parity.compare.rows import OWN_RUNS
from detexport.parity.measures import measured
from detexport.parity.noise_floor import Limit
from detexport.reference.input_coverage import InputCoverage
from detexport.runtime.session import Session
from detexport.system.atomic import atomic_file
from detexport.system.files import write_json


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about an artifact.

    Args:
        question: what was asked.
        evaluated: whether there was something to evaluate, and a limit to judge it by.
        reasons: why it did not pass; where samples say so, the first of them and how many more.
        note: what else decides how much the answer is worth.
    """

    question: str
    evaluated: bool
    reasons: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the artifact; also where nothing was judged."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"passed": self.passed, **asdict(self)}


MOST_UNDETERMINED = 0.5
"""Where the model's own runs leave open a greater part of its detections, too little is left to compare."""


@dataclass(frozen=True)
class Undetermined:
    """What the model's own runs leave open, and what is left to judge an artifact by.

    Args:
        inputs: on which a detection is undetermined.
        missing: undetermined detections that the model alone has.
        extra: those that the artifact alone has.
        expected: the model's detections on all inputs.
        determined: those of which the artifact has the same within limits that prove something; of models
            without detections the inputs.
        noise_dominated: by input, the names of the limits that the model itself exceeds by far.
        why: by input, how many detections are undetermined, in words.
    """

    inputs: int
    missing: int
    extra: int
    expected: int
    determined: int
    noise_dominated: dict[str, tuple[str, ...]]
    why: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ParityReport:
    """The verdicts on one job, with their evidence.

    Args:
        job: the job's name.
        artifact_sha256: the artifact that was run.
        tolerance: the limits, nowhere tighter than the noise floor; none where the precision is reduced, and
            errors are evidence alone.
        contract: the artifact's; what the model gives decides what is measured.
        samples: the measurement of each sample, by its id.
        faults: what is wrong beyond single samples.
        accuracy: what it found against annotations; none where that was not measured.
        limits: each limit beside the model's own noise; none where that was not measured.
        own_unmatched: see ``NoiseFloor.unmatched``.
        coverage: what the samples cover.
        unsupported_inputs: why a sample was not run, by its id: what the artifact does not promise.
        drawn: the runtime's outputs on a few samples, for pictures; not part of the JSON.
    """

    job: str
    artifact_sha256: str
    tolerance: Tolerance | None
    contract: Contract
    samples: dict[str, SampleParity]
    faults: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    limits: tuple[Limit, ...] = ()
    own_unmatched: int = 0
    coverage: InputCoverage | None = None
    unsupported_inputs: dict[str, str] = field(default_factory=dict)
    drawn: dict[str, Outputs] = field(default_factory=dict, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        """Whether every verdict is good."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the job did not pass, verdict by verdict."""
        return tuple(reason for verdict in self.verdicts.values() for reason in verdict.reasons)

    @property
    def lacks_detections(self) -> bool:
        """Whether the model detects nothing on any sample, so that no detection was compared."""
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
        edge = [one for sample in samples for one in (*sample.missing, *sample.extra) if one.excused]
        return {
            "contract": Verdict(
                "Does it run, with the outputs that its contract declares?",
                True,
                (*self.faults, *self._told(lambda sample: sample.broken)),
                f"{len(self.unsupported_inputs)} inputs outside the declared support"
                if self.unsupported_inputs
                else "",
            ),
            "numerics": Verdict(
                "Are the numbers of paired detections equal, within the tolerance?",
                self.tolerance is not None,
                self._told(lambda sample: sample.numerics),
                "; ".join(self._numerics_notes()),
            ),
            "matching": Verdict(
                "Does it return the same detections, none missing and none extra?",
                self.tolerance is not None,
                (
                    *self._nothing_determined(),
                    *self._keypoint_faults(),
                    *self._told(lambda sample: sample.matching),
                ),
                "; ".join(self._matching_notes(len(edge))),
            ),
            "accuracy": Verdict(
                "Does it reach the eager model's accuracy against ground truth?",
                self.accuracy is not None or self.tolerance is None,
                self.accuracy.faults if self.accuracy else self._without_evidence(),
                "; ".join(self.accuracy.notes) if self.accuracy else "not measured",
            ),
        }

    def _matching_notes(self, at_edges: int) -> Iterator[str]:
        undetermined = self.undetermined
        at_edges -= undetermined.missing + undetermined.extra
        if at_edges:
            yield f"{at_edges} at the edge of what decides, where rounding may flip them"
        if undetermined.missing or undetermined.extra:
            yield (
                f"undetermined on {undetermined.inputs} inputs: {undetermined.missing} of "
                f"{undetermined.expected} detections missing, {undetermined.extra} extra, about which the "
                "model's own runs do not agree"
            )
        if self.own_unmatched:
            yield f"the model itself flips {self.own_unmatched} beyond an edge when it is run in other ways"

    @property
    def undetermined(self) -> "Undetermined":
        """What the model's own runs leave open, and what is left."""
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
        """An artifact of which the model itself leaves everything open is no proved one."""
        if self.tolerance is None or not self.samples:
            return ()
        open_one = self.undetermined
        if not (open_one.missing or open_one.noise_dominated):
            return ()
        if open_one.determined and open_one.missing <= MOST_UNDETERMINED * open_one.expected:
            return ()
        return (
            f"too little is determined: the model's own runs do not agree about {open_one.missing} of its "
            f"{open_one.expected} detections; {open_one.determined} were found within limits that prove "
            "something",
        )

    def _without_evidence(self) -> tuple[str, ...]:
        """Without a measured metric nothing speaks for an artifact of reduced precision."""
        if self.tolerance is not None or self.faults:
            return ()
        return ("not measured, and nothing else decides on reduced precision: annotated images are needed",)

    def _numerics_notes(self) -> Iterator[str]:
        """Which limits give way to the model's own noise, and where it leaves nothing to compare."""
        wider = [f"{limit.name} {limit.effective:.3g}" for limit in self.limits if limit.widened]
        if wider:
            yield f"wider than the table, for the model's own noise: {', '.join(wider)}"
        noise_dominated = self.undetermined.noise_dominated
        if noise_dominated:
            names = ", ".join(sorted({name for names in noise_dominated.values() for name in names}))
            yield (
                f"undetermined on {len(noise_dominated)} inputs, where the model's own error is far beyond "
                f"the table: {names}"
            )

    @property
    def keypoint_flip_ratio(self) -> float | None:
        """The part of all samples' keypoints that lie elsewhere; ``None`` where there are none."""
        samples = [one for one in self.samples.values() if "keypoint_flip_ratio" not in one.noise_dominated]
        compared = sum(sample.keypoints for sample in samples)
        flipped = sum(sample.keypoint_flips for sample in samples)
        return flipped / compared if compared else None

    def _told(self, reasons_of: Callable[[SampleParity], Iterable[str]]) -> tuple[str, ...]:
        """The samples' reasons with their ids, equal reasons told once."""
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
        return (f"keypoints: {ratio:.2%} of all lie elsewhere (limit {limit:.2%})",) if ratio > limit else ()

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; an error is null where nothing could be compared."""
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
            "own_unmatched": self.own_unmatched,
            "undetermined": self.undetermined.to_json(),
            "unsupported_inputs": self.unsupported_inputs,
            "samples": [{"id": id, **sample.to_json()} for id, sample in self.samples.items()],
        }

    def _coverage(self) -> dict[str, Any] | None:
        """What the samples put to the test, and what no sample shows although the model could."""
        coverage = self.coverage
        return {**asdict(coverage), "gaps": list(coverage.gaps)} if coverage else None

    def _unmatched(self) -> list[dict[str, Any]]:
        """Every detection that one side alone has, and how far it was from what decided it.

        Those that are not excused come first.
        """
        unmatched = [
            {"sample": id, "side": side, **asdict(one)}
            for id, sample in self.samples.items()
            for side, found in (("missing", sample.missing), ("extra", sample.extra))
            for one in found
        ]
        return sorted(unmatched, key=lambda one: one["excused"])

    def judged_by(self, session: Session, measure: Callable[[Session], Accuracy]) -> "ParityReport":
        """This report with what the artifact finds against annotations.

        Where its precision is reduced, that alone is held to limits: errors stay as evidence. What could not
        be compared at all stays a reason.
        """
        try:
            accuracy = measure(session)
        except (DataError, MemoryError):  # says nothing of the artifact
            raise
        except Exception as error:
            return replace(self, faults=(*self.faults, f"accuracy: {type(error).__name__}: {error}"))
        return replace(self, accuracy=accuracy)

    def as_evidence(self) -> "ParityReport":
        """This report of an artifact of reduced precision: errors are told and held to no limit."""
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
