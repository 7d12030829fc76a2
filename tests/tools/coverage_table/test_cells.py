"""What a verdict says of a cell."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coverage_table.cells import Cell, cell_of, group_samples
from coverage_table.run import Outcome
from coverage_table.steps import Step
from detexport.parity.validate import validate_artifact
from detexport.processing.postprocess import postprocess
from detexport.reference.store import Sample, SampleMeta, read_reference, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import read_json, write_json
from detexport.workflows.sample_folder import write_sample
from tiny_artifacts import tiny_contract, tiny_image, write_tiny_onnx
from tolerances import TOLERANCE

JOB = {"model": "tiny", "target": "onnx", "artifact": "onnx"}
SIZES = {"exported": (30, 50), "smaller": (20, 34), "larger": (40, 60), "odd": (31, 47)}
# No channel of the first is bright enough for a detection, one of the second is.
BRIGHTNESS = {"exported": (0, 0, 0), "smaller": (200, 0, 0), "larger": (200, 90, 140), "odd": (200, 90, 140)}


def sample(id: str, size: tuple[int, int], detections: int) -> Sample:
    meta = SampleMeta(id, 1, "a.png", size, size, 1.0)
    return Sample(meta, detections, Path())


SAMPLES = [sample(name, size, count) for (name, size), count in zip(SIZES.items(), (0, 1, 2, 9), strict=True)]


def test_samples_are_sorted_by_size_and_count() -> None:
    kinds = group_samples(SAMPLES, tiny_contract(), SIZES["exported"])
    assert kinds.sizes == {name: {name} for name in SIZES}
    assert kinds.counts == {"no": {"exported"}, "one": {"smaller"}, "many": {"larger", "odd"}}
    assert kinds.gaps == []


@pytest.mark.parametrize(
    ("left_out", "gap"), [("odd", "of odd size"), ("smaller", "with one detections"), ("larger", "of larger")]
)
def test_what_a_reference_does_not_show_is_told(left_out: str, gap: str) -> None:
    kept = [one for one in SAMPLES if one.meta.id != left_out]
    assert any(gap in told for told in group_samples(kept, tiny_contract(), SIZES["exported"]).gaps)


def test_a_model_without_scores_needs_no_counts() -> None:
    contract = tiny_contract()
    without = replace(contract, outputs=tuple(spec for spec in contract.outputs if spec.name != "scores"))
    samples = [replace(one, detections=0) for one in SAMPLES]
    assert group_samples(samples, without, SIZES["exported"]).gaps == []


class Run:
    """The files of a job, as the stages write them, and the steps' outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        contract = tiny_contract()
        write_tiny_onnx(folder / "artifact")
        engine = OnnxRuntime(threads=1)
        session = engine.open(folder / "artifact")
        samples = []
        for name, size in SIZES.items():
            image = tiny_image(*size, brightness=BRIGHTNESS[name])
            meta = SampleMeta(name, 1, "a.png", size, size, 1.0)
            samples.append((meta, image, postprocess(session(image), size, size, contract)))
        write_reference(folder / "reference", samples, contract=contract, environment={})
        image = tiny_image(*SIZES["exported"])
        write_sample(image, folder / "sample", image_id=1, file="a.png")
        reference = read_reference(folder / "reference")
        report = validate_artifact(engine, folder / "artifact", reference, TOLERANCE, job="tiny-onnx")
        report.save(folder / "verdict.json", folder / "drawn.npz")
        self.steps = [
            Step("sample@tiny", "", (), ("sample",), {}),
            Step("reference@tiny", "", (), ("reference",), {}),
            Step("export@tiny-onnx", "", (), ("artifact",), {}),
            Step("validate@tiny-onnx", "", (), ("drawn.npz", "verdict.json"), {}),
        ]
        self.outcomes = {step.name: Outcome("k", "ok", seconds=2.0, peak_bytes=5) for step in self.steps}

    def cell(self, declared: str | None = None, **outcomes: Outcome) -> Cell:
        known = self.outcomes | {f"{stage}@tiny-onnx": outcome for stage, outcome in outcomes.items()}
        return cell_of(JOB, "Tiny", self.steps, known, self.folder, declared)

    def edit(self, **changes: Any) -> None:
        write_json(self.folder / "verdict.json", read_json(self.folder / "verdict.json") | changes)


@pytest.fixture
def job(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_cell_holds_what_was_measured(job: Run) -> None:
    cell = job.cell()
    assert (cell.model, cell.architecture, cell.target) == ("tiny", "Tiny", "onnx")
    assert (cell.status, cell.reason) == ("ok", "")
    assert cell.dynamic_size is True
    assert cell.zero_detections is True
    assert cell.fresh_process is True
    assert cell.batch == "1"
    assert (cell.export_s, cell.peak_bytes) == (2.0, 5)
    assert cell.errors["box_error_px"] == 0


def test_wrong_where_there_is_nothing_is_told(job: Run) -> None:
    samples = read_json(job.folder / "verdict.json")["samples"]
    for one in samples:
        one["passed"] &= one["id"] != "exported"
    job.edit(samples=samples, reasons=["exported: wrong"])
    assert job.cell().zero_detections is False


def test_one_wrong_size_is_no_dynamic_size(job: Run) -> None:
    samples = read_json(job.folder / "verdict.json")["samples"]
    for one in samples:
        one["passed"] &= one["id"] != "odd"
    job.edit(samples=samples, reasons=["odd: wrong"])
    cell = job.cell()
    assert cell.status == "failed"
    assert cell.dynamic_size is False
    assert cell.reason.startswith("odd: wrong")


def test_reduced_precision_tells_the_metrics_less_eagers(job: Run) -> None:
    job.edit(accuracy={"differences": {"bbox/AP": -0.01}}, tolerance=None)
    assert job.cell().errors == {"bbox/AP": -0.01}


def test_what_was_not_made_is_a_failure_with_its_reason(job: Run) -> None:
    failed, blocked = Outcome("k", "failed", "no"), Outcome("", "blocked", "export: no")
    cell = job.cell(export=failed, validate=blocked)
    assert (cell.status, cell.reason) == ("failed", "export: no")
    assert (cell.dynamic_size, cell.fresh_process, cell.export_s, cell.errors) == (None, None, None, {})


def test_what_this_machine_lacks_is_skipped(job: Run) -> None:
    cell = job.cell(validate=Outcome("k", "unavailable", "no CUDA device"))
    assert (cell.status, cell.reason) == ("skipped", "no CUDA device")


def test_a_declared_pair_that_does_not_work_is_unsupported(job: Run) -> None:
    cell = job.cell("no such operator", validate=Outcome("", "blocked", "export: something else"))
    assert (cell.status, cell.reason) == ("unsupported", "no such operator")


def test_a_declared_pair_that_works_is_told(job: Run) -> None:
    cell = job.cell("no such operator")
    assert cell.status == "ok"
    assert "no such operator" in cell.reason
