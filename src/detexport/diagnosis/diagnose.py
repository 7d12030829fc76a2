"""Diagnose an artifact: find the first segment whose outputs exceed the tolerance."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.contract import Contract
from detexport.data.resize import resize_image
from detexport.diagnosis.segment_chain import Chain, Step, cut, require_faithful, walk
from detexport.diagnosis.segment_exports import SegmentExporter, read_segment_exporter, run_segment
from detexport.diagnosis.segment_tolerances import Limits, Measured, limits_of, measure, measure_outputs
from detexport.errors import ArtifactError, ExportError, RuntimeUnavailableError
from detexport.modeling.graph_segment import Kind, Segment
from detexport.processing.postprocess import postprocess
from detexport.reference.eager_outputs import run_eager

RECORDED_SCALE = 0.75
"""Scale of the image to export with, relative to the image to run on: a size that a trace fixed shows."""
POSTPROCESSING = "postprocessing"


@dataclass(frozen=True)
class SegmentReport:
    """The result of a segment.

    Args:
        name: see ``segments``.
        kind: how its outputs are compared.
        inputs: names of its input tensors.
        outputs: names of the tensors that were compared.
        passed: whether they are within the limits; None if the segment could not be exported or run.
        errors: see ``Measured``.
        limits: see ``Measured``.
        worst: see ``Measured``.
        why: why it did not pass, or could not be exported.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    passed: bool | None
    errors: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    worst: str = ""
    why: str = ""


@dataclass(frozen=True)
class Divergence:
    """Both sides of the first segment that differs, for drawing.

    Args:
        kind: of the segment.
        image: uint8 (3, H, W).
        expected: the eager model's tensors by name.
        actual: the tensors of the artifact's segment; empty if it raised.
    """

    kind: Kind
    image: np.ndarray
    expected: Mapping[str, np.ndarray]
    actual: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Diagnosis:
    """The first divergence of an artifact from the model, on one image.

    Args:
        artifact_sha256: digest of the artifact.
        method: its export method or conversion.
        runtime: the runtime of the artifact and the segments.
        precision: of the target, if it is reduced.
        image_size: height and width in px of the image that was run on.
        recorded_size: height and width in px of the image that the segments were exported with.
        artifact: the whole artifact against the eager model, post-processed.
        segments: in the order of the computation, the post-processing last.
        quantization: see ``SegmentExporter``.
        notes: differences between the segments and the artifact, and segments that are whole modules.
        evidence: for drawing; not part of the JSON.
    """

    artifact_sha256: str
    method: str
    runtime: str
    precision: str
    image_size: tuple[int, int]
    recorded_size: tuple[int, int]
    artifact: SegmentReport
    segments: tuple[SegmentReport, ...]
    quantization: str = ""
    notes: tuple[str, ...] = ()
    evidence: Divergence | None = field(default=None, repr=False, compare=False)

    @property
    def first(self) -> SegmentReport | None:
        """Return the first segment that exceeds the tolerance; None if there is none."""
        return next((one for one in self.segments if one.passed is False), None)

    @property
    def diverges(self) -> bool:
        """Return whether the artifact, or a segment of it, exceeds the tolerance."""
        return self.artifact.passed is False or self.first is not None

    @property
    def unknown(self) -> tuple[str, ...]:
        """Return the names of the segments that could not be exported or run."""
        return tuple(one.name for one in self.segments if one.passed is None)

    @property
    def sentence(self) -> str:
        """Return the finding, in words."""
        unknown = f" Not examined: {', '.join(self.unknown)}." if self.unknown else ""
        if self.first is not None:
            although = (
                " alone, although the whole artifact passes on this image" if self.artifact.passed else ""
            )
            return f"The first divergence is {self.first.name}{although}: {self.first.why}.{unknown}"
        if self.artifact.passed:
            return f"Nothing diverges on this image: the artifact and every segment pass.{unknown}"
        examined = "Every segment" if not self.unknown else "Every examined segment"
        cause = "its packaging, its options or its runtime are at fault"
        if self.quantization:
            cause = f"the remaining cause is the quantization itself, {self.quantization}"
        elif self.precision:
            cause = (
                f"the remaining cause is its precision, {self.precision}: roundings add up over the segments"
            )
        return f"{examined} passes alone, and the artifact does not: {cause} ({self.artifact.why}).{unknown}"

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain JSON values; NaN and infinity are null."""
        value = {
            "needed": True,
            "sentence": self.sentence,
            "first": self.first.name if self.first else None,
            **{name: getattr(self, name) for name in ("artifact_sha256", "method", "runtime", "precision")},
            "image_size": list(self.image_size),
            "recorded_size": list(self.recorded_size),
            "artifact": asdict(self.artifact),
            "segments": [asdict(one) for one in self.segments],
            "notes": list(self.notes),
        }
        plain: dict[str, Any] = _plain(value)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def diagnose(
    model: Any,
    artifact_dir: Path,
    image: np.ndarray,
    *,
    exported_model: Any = None,
    recorded: np.ndarray | None = None,
    target: str = "",
    exporter: SegmentExporter | None = None,
) -> Diagnosis:
    """Find the first segment in which an artifact's method and runtime differ from the model.

    Every segment is exported by the artifact's method with the artifact's dynamic sizes, and run in its
    runtime on the eager model's tensors, so that an error does not carry over to the next segment.

    Args:
        model: the correct eager model, in evaluation mode, on the CPU.
        artifact_dir: folder of the artifact.
        image: uint8 (3, H, W), the contract's channel order, resized.
        exported_model: the model that was exported, if it may differ; ``model`` by default.
        recorded: an image to export the segments with, of another size than ``image``; by default ``image``,
            smaller.
        target: see ``read_segment_exporter``.
        exporter: by default the one that ``read_segment_exporter`` returns.

    Raises:
        ArtifactError: the folder is not an artifact.
        ConfigError: its method is none of the project's, or the target is not known.
        ExportError: the segments do not reproduce the model: see ``require_faithful``.
        RuntimeUnavailableError: the runtime is not on this machine.
    """
    exporter = exporter or read_segment_exporter(artifact_dir, target)
    contract, limits = exporter.artifact.contract, limits_of(exporter.precision)
    if recorded is None:
        recorded = resize_image(image, _smaller(image))
    chain = cut(model, contract)
    outputs = require_faithful(chain, model, image)
    modules = _modules(chain, chain if exported_model is None else cut(exported_model, contract))

    size: tuple[int, int] = (image.shape[1], image.shape[2])
    eager = run_eager(model, image, size, contract)
    reports, evidence = [], None
    steps = zip(walk(chain, image), walk(chain, recorded), modules, strict=True)
    for step, sample, module in tqdm(steps, desc="segments", unit="segment", total=len(modules)):
        report, actual = _examine(exporter, step, sample, module, size, limits)
        reports.append(report)
        if report.passed is False and evidence is None:
            evidence = Divergence(step.segment.kind, image, _arrays(step), actual)
    last = _examine_postprocessing(outputs, eager, size, contract)
    whole = _examine_artifact(exporter, artifact_dir, image, eager, contract, limits)
    return Diagnosis(
        artifact_sha256=exporter.artifact.sha256,
        method=exporter.artifact.method,
        runtime=type(exporter.engine).__name__,
        precision=exporter.precision,
        image_size=size,
        recorded_size=(recorded.shape[1], recorded.shape[2]),
        artifact=whole,
        segments=(*reports, last),
        quantization=exporter.quantization,
        notes=(*exporter.notes, *chain.notes, *_emptiness(outputs, contract)),
        evidence=evidence,
    )


def _emptiness(outputs: dict[str, np.ndarray], contract: Contract) -> list[str]:
    empty = contract.row_names and not len(outputs[contract.row_names[0]])
    return ["the eager model detects nothing on this image; use an image with objects"] if empty else []


def _smaller(image: np.ndarray) -> tuple[int, int]:
    height, width = (max(1, round(side * RECORDED_SCALE)) for side in image.shape[1:])
    return height, width


def _modules(chain: Chain, exported: Chain) -> list[Any]:
    """Return the modules of the exported model's segments.

    Raises:
        ExportError: it has other segments than the eager model.
    """

    def shape(one: Segment) -> tuple[Any, ...]:
        return one.name, one.inputs, one.outputs

    if list(map(shape, chain.segments)) != list(map(shape, exported.segments)):
        raise ExportError(
            "the exported model has other segments than the eager model",
            got=", ".join(one.name for one in exported.segments),
            expected=", ".join(one.name for one in chain.segments),
            remedy="build both from one configuration",
        )
    return [one.module for one in exported.segments]


def _arrays(step: Step) -> dict[str, np.ndarray]:
    return {port.name: value.numpy() for port, value in zip(step.segment.outputs, step.outputs, strict=True)}


def _examine(
    exporter: SegmentExporter, step: Step, sample: Step, module: Any, size: tuple[int, int], limits: Limits
) -> tuple[SegmentReport, dict[str, np.ndarray]]:
    """Export a segment, run it, and measure its errors."""
    segment = step.segment
    names = tuple(port.name for port in segment.inputs), tuple(port.name for port in segment.outputs)
    head = (segment.name, segment.kind.value, *names)
    # Without rows there is nothing to trace; the image to run on may have some.
    chosen = sample if all(value.numel() for value in sample.inputs) else step
    if not all(value.numel() for value in chosen.inputs):
        return SegmentReport(*head, passed=None, why="the eager model detects nothing on this image"), {}
    inputs = {port.name: value.numpy() for port, value in zip(segment.inputs, step.inputs, strict=True)}
    recorded = {port.name: value.numpy() for port, value in zip(segment.inputs, chosen.inputs, strict=True)}
    specs = (
        tuple(port.spec(value) for port, value in zip(segment.inputs, step.inputs, strict=True)),
        tuple(port.spec(value) for port, value in zip(segment.outputs, step.outputs, strict=True)),
    )
    expected = _arrays(step)
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = exporter.export(module, specs, recorded, Path(folder))
        except (ArtifactError, ExportError, RuntimeError) as error:
            return SegmentReport(
                *head, passed=None, why=f"cannot be exported alone: {_first_line(error)}"
            ), {}
        try:
            actual = run_segment(session, inputs)
        except MemoryError:  # a fault of the machine, not of the segment
            raise
        except Exception as error:  # errors of runtimes have no common base; on a segment they are a result
            return SegmentReport(*head, passed=False, why=_first_line(error)), {}
    measured = measure(segment.kind, expected, actual, size, exporter.artifact.contract, limits)
    return _report(head, measured), actual


def _report(head: tuple[str, str, tuple[str, ...], tuple[str, ...]], measured: Measured) -> SegmentReport:
    errors, limits, worst, why = measured.errors, measured.limits, measured.worst, measured.why
    return SegmentReport(*head, not why, errors, limits, worst, why)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _examine_postprocessing(
    raw: dict[str, np.ndarray], eager: dict[str, Any], size: tuple[int, int], contract: Contract
) -> SegmentReport:
    """Compare the numpy post-processing with the eager model's; no artifact is involved."""
    head = (POSTPROCESSING, Kind.OUTPUTS.value, contract.output_names, tuple(eager))
    actual = postprocess(raw, size, size, contract)
    return _report(head, measure_outputs(eager, actual, contract, Limits()))


def _examine_artifact(
    exporter: SegmentExporter,
    artifact_dir: Path,
    image: np.ndarray,
    eager: dict[str, Any],
    contract: Contract,
    limits: Limits,
) -> SegmentReport:
    """Compare the whole artifact, from the image to the post-processed outputs."""
    head = ("artifact", Kind.OUTPUTS.value, tuple(spec.name for spec in contract.inputs), tuple(eager))
    size: tuple[int, int] = (image.shape[1], image.shape[2])
    try:
        outputs = exporter.engine.open(artifact_dir)(image, size)
        actual = postprocess(outputs, size, size, contract)
    except (RuntimeUnavailableError, MemoryError):
        raise
    except Exception as error:
        return SegmentReport(*head, passed=False, why=_first_line(error))
    return _report(head, measure_outputs(eager, actual, contract, limits))
