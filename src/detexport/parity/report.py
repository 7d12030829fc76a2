"""The verdict on one job: is it well-formed, do numbers drift, do decisions flip, does it find as much."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.files import atomic_file, write_json
from detexport.parity.compare import SampleParity, Tolerance
from detexport.parity.conditions import Conditions
from detexport.parity.floor import MOST_WIDENED, Limit
from detexport.parity.measures import measured
from detexport.parity.outputs import Outputs, pack, unpack
from detexport.parity.quality import Quality
from detexport.runtime.session import Session


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about an artifact.

    Args:
        question: what was asked.
        judged: whether there was something to judge, and a limit to judge it by.
        reasons: why it did not pass; where samples say so, the first of them and how many more.
        note: what else decides how much the answer is worth.
    """

    question: str
    judged: bool
    reasons: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the artifact; also where nothing was judged."""
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {"passed": self.passed, **asdict(self)}


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
        quality: what it found against annotations; none where that was not measured.
        limits: each limit beside the model's own noise; none where that was not measured.
        own_flips: see ``Floor.flips``.
        conditions: what the samples put to the test.
        not_claimed: why a sample was not run, by its id: what the artifact does not promise.
        drawn: the runtime's outputs on a few samples, for pictures; not part of the JSON.
    """

    job: str
    artifact_sha256: str
    tolerance: Tolerance | None
    contract: Contract
    samples: dict[str, SampleParity]
    faults: tuple[str, ...] = ()
    quality: Quality | None = None
    limits: tuple[Limit, ...] = ()
    own_flips: int = 0
    conditions: Conditions | None = None
    not_claimed: dict[str, str] = field(default_factory=dict)
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
    def verdicts(self) -> dict[str, Verdict]:
        """What was asked and answered, apart from one another: each fault is told by one of them.

        ``contract``: the artifact opens, runs on every input that it claims and gives what its contract says,
        finite, best score first. ``drift``: numbers of what both sides found. ``flips``: what one side alone
        found. ``metric``: what is found against annotations.
        """
        samples = self.samples.values()
        edge = [one for sample in samples for one in (*sample.missing, *sample.extra) if one.excused]
        return {
            "contract": Verdict(
                "Does it run and give what its contract says?",
                True,
                (*self.faults, *self._told(lambda sample: sample.broken)),
                f"{len(self.not_claimed)} inputs not claimed" if self.not_claimed else "",
            ),
            "drift": Verdict(
                "How far do the numbers of what both found lie apart?",
                self.tolerance is not None,
                (*self._drowned(), *self._told(lambda sample: sample.drift)),
                self._widened(),
            ),
            "flips": Verdict(
                "Does it find what the model finds, and nothing else?",
                self.tolerance is not None,
                (*self._keypoint_faults(), *self._told(lambda sample: sample.flips)),
                "; ".join(self._flip_notes(len(edge))),
            ),
            "metric": Verdict(
                "Does it find as much of what is annotated?",
                self.quality is not None or self.tolerance is None,
                self.quality.faults if self.quality else self._unproved(),
                "; ".join(self.quality.notes) if self.quality else "not measured",
            ),
        }

    def _flip_notes(self, at_edges: int) -> Iterator[str]:
        if at_edges:
            yield f"{at_edges} at the edge of what decides, where rounding may flip them"
        if self.own_flips:
            yield f"the model itself flips {self.own_flips} beyond an edge when it is run in other ways"

    def _unproved(self) -> tuple[str, ...]:
        """Without a measured metric nothing speaks for an artifact of reduced precision."""
        if self.tolerance is not None or self.faults:
            return ()
        return ("not measured, and nothing else decides on reduced precision: annotated images are needed",)

    def _drowned(self) -> tuple[str, ...]:
        """Limits within which the model's own noise leaves nothing to prove."""
        if self.tolerance is None:
            return ()
        return tuple(
            f"{limit.name}: the model differs from itself by {limit.floor:.3g}, more than {MOST_WIDENED:g} "
            f"times the limit {limit.table:.3g}: nothing within that is a proof"
            for limit in self.limits
            if limit.drowned
        )

    def _widened(self) -> str:
        """Which limits give way to the model's own noise."""
        wider = [f"{limit.name} {limit.effective:.3g}" for limit in self.limits if limit.widened]
        return f"wider than the table, for the model's own noise: {', '.join(wider)}" if wider else ""

    @property
    def keypoint_flip_ratio(self) -> float | None:
        """The part of all samples' keypoints that lie elsewhere; ``None`` where there are none."""
        compared = sum(sample.keypoints for sample in self.samples.values())
        flipped = sum(sample.keypoint_flips for sample in self.samples.values())
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
            "conditions": self._conditions(),
            "quality": self.quality.to_json() if self.quality else None,
            "artifact_sha256": self.artifact_sha256,
            "max": {name: self._largest(name) for name in self._measured()},
            "detections": {
                "expected": sum(sample.expected for sample in samples),
                "actual": sum(sample.actual for sample in samples),
                "paired": sum(sample.paired for sample in samples),
            },
            "flips": self._flips(),
            "own_flips": self.own_flips,
            "not_claimed": self.not_claimed,
            "samples": [{"id": id, **sample.to_json()} for id, sample in self.samples.items()],
        }

    def _conditions(self) -> dict[str, Any] | None:
        """What the samples put to the test, and what no sample shows although the model could."""
        conditions = self.conditions
        return {**asdict(conditions), "gaps": list(conditions.gaps)} if conditions else None

    def _flips(self) -> list[dict[str, Any]]:
        """Every detection that one side alone has, and how far it was from what decided it.

        Those that are not excused come first.
        """
        flips = [
            {"sample": id, "side": side, **asdict(one)}
            for id, sample in self.samples.items()
            for side, found in (("missing", sample.missing), ("extra", sample.extra))
            for one in found
        ]
        return sorted(flips, key=lambda flip: flip["excused"])

    def judged_by(self, session: Session, measure: Callable[[Session], Quality]) -> "ParityReport":
        """This report with what the artifact finds against annotations.

        Where its precision is reduced, that alone is held to limits: errors stay as evidence. What could not
        be compared at all stays a reason.
        """
        try:
            quality = measure(session)
        except (DataError, MemoryError):  # says nothing of the artifact
            raise
        except Exception as error:
            return replace(self, faults=(*self.faults, f"quality: {type(error).__name__}: {error}"))
        return replace(self, quality=quality)

    def as_evidence(self) -> "ParityReport":
        """This report of an artifact of reduced precision: errors are told and held to no limit."""
        samples = {
            id: replace(sample, drift=(), flips=(), box_limit_px=None) for id, sample in self.samples.items()
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
