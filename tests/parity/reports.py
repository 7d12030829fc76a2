"""Parity reports with given measurements, without an artifact."""

from typing import Any

from detexport.parity.accuracy import Accuracy
from detexport.parity.compare import SampleParity
from detexport.parity.compare.match_detections import OneSided
from detexport.parity.verdict import ParityReport
from tiny_artifacts import tiny_contract
from tolerances import TOLERANCE


def measured(expected: int = 4, **changes: Any) -> SampleParity:
    """The measurement of an image whose detections are all paired, without an error."""
    fields: dict[str, Any] = {"actual": expected, "paired": expected, "compared": True}
    errors = {"box_error_px": 0.0, "score_error": 0.0}
    return SampleParity(expected, **{**fields, "errors": errors, **changes})


def one_sided(score: float = 0.9, *, excused: bool = False, undetermined: bool = False) -> OneSided:
    box = (0.0, 0.0, 1.0, 1.0)
    return OneSided(0, 1, score, box, "the score threshold", 0.125, excused or undetermined, undetermined)


def report_of(*samples: SampleParity, **changes: Any) -> ParityReport:
    """The report on samples a, b, c, ..."""
    by_id = {chr(ord("a") + index): sample for index, sample in enumerate(samples)}
    fields = {"tolerance": TOLERANCE, "contract": tiny_contract(), **changes}
    return ParityReport("model-onnx", "0" * 64, samples=by_id, **fields)


def accuracy_of(eager: float, artifact: float, **changes: Any) -> Accuracy:
    fields: dict[str, Any] = {"precision": "float32", "budget": 0.002, "least": 0.05, "images": 8}
    return Accuracy(eager={"bbox/AP": eager}, artifact={"bbox/AP": artifact}, **{**fields, **changes})
