import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.artifact import Artifact, read_artifact
from detexport.errors import RuntimeUnavailableError
from detexport.parity.validate import output_faults, validate, validate_artifact
from detexport.parity.verdict import read_drawn
from detexport.processing.postprocess import postprocess
from detexport.reference.store import Reference, SampleMeta, read_reference, write_reference
from detexport.runtime import Session
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from tiny_artifacts import KINDS, tiny_contract, tiny_image, write_tiny_onnx
from tiny_models import CONTRACTS, raw_outputs, write_tiny_pasted
from tolerances import TOLERANCE

OUTPUT_SIZE = (60, 100)


def samples(folder: Path) -> Iterator[tuple[SampleMeta, np.ndarray, dict[str, np.ndarray]]]:
    """Two images at two sizes each, the second one dark, with another format's detections."""
    from detexport.runtime.torchscript import TorchScript

    session = TorchScript().open(folder)
    for image_id, brightness in [(3, (200, 90, 140)), (4, (20, 20, 20))]:
        for scale, size in [(1.0, (30, 50)), (1.5, (45, 75))]:
            image = tiny_image(*size, brightness)
            meta = SampleMeta(
                f"{image_id:04d}-{scale:g}x", image_id, f"{image_id:06d}.png", size, OUTPUT_SIZE, scale
            )
            yield meta, image, postprocess(session(image), size, OUTPUT_SIZE, tiny_contract())


@pytest.fixture(scope="module")
def folder(tiny_scripting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity") / "reference"
    write_reference(
        folder, samples(tiny_scripting), contract=tiny_contract(), environment={"torch": "2", "threads": 1}
    )
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return read_reference(folder)


@pytest.fixture(scope="module")
def session(tiny_onnx: Path) -> Session:
    return OnnxRuntime(threads=1).open(tiny_onnx)


@dataclass(frozen=True)
class Broken:
    """A session whose outputs have a planted fault."""

    session: Session
    fault: Callable[[dict[str, np.ndarray]], Any]

    @property
    def artifact(self) -> Artifact:
        return self.session.artifact

    @property
    def device(self) -> str:
        return self.session.device

    def __call__(
        self, image: np.ndarray, output_size: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        outputs = {name: value.copy() for name, value in self.session(image, output_size).items()}
        return self.fault(outputs) or outputs


def claiming(session: Session, **claims: Any) -> Any:
    """The session of an artifact that claims less than it can."""

    @dataclass(frozen=True)
    class Modest(Broken):
        @property
        def artifact(self) -> Artifact:
            return replace(self.session.artifact, **claims)

    return Modest(session, lambda outputs: outputs)


def test_an_artifact_that_was_shown_nothing_does_not_pass(reference: Reference, session: Session) -> None:
    report = validate(claiming(session, image_sides=(1000, 2000)), reference, TOLERANCE, job="tiny")
    assert (len(report.samples), len(report.unsupported_inputs)) == (0, 4)
    assert "the reference has too few detections: 0 on the 0 inputs" in report.reasons[0]
    # Dark images alone, on which there is nothing to find.
    dark = replace(reference, samples=reference.samples[2:])
    (reason, *_) = validate(session, dark, TOLERANCE, job="tiny").reasons
    assert "too few detections: 0 on the 2 inputs" in reason


def test_an_artifact_of_one_size_is_held_to_that_size(reference: Reference, session: Session) -> None:
    contract = session.artifact.contract
    image = replace(contract.inputs[0], shape=(3, 30, 50))
    fixed = claiming(session, contract=replace(contract, inputs=(image,)))
    report = validate(fixed, reference, TOLERANCE, job="tiny")
    assert report.passed, report.reasons
    assert (len(report.samples), len(report.unsupported_inputs)) == (2, 2)


def test_reduced_precision_without_a_metric_does_not_pass(reference: Reference, session: Session) -> None:
    report = validate(session, reference, TOLERANCE, job="tiny", reduced=True)
    assert not report.passed
    assert "reduced precision is evaluated by accuracy alone" in report.verdicts["accuracy"].reasons[0]


def test_another_format_of_the_same_model_passes(reference: Reference, session: Session) -> None:
    report = validate(session, reference, TOLERANCE, job="tiny-onnx", draw=5)
    value = report.to_json()
    assert report.passed, report.reasons
    assert value["detections"] == {"expected": 6, "actual": 6, "paired": 6}
    assert value["max"]["mask_error_px"] == 0
    assert 0 <= value["max"]["box_error_px"] < 1e-3
    assert [sample["expected"] for sample in value["samples"]] == [3, 3, 0, 0]
    assert value["worst"] == list(report.drawn), "of each of the two images the input with the largest error"
    assert [id.partition("-")[0] for id in value["worst"]] == ["0003", "0004"]
    limits = [sample.box_limit_px for sample in report.samples.values()]
    assert limits[:2] == pytest.approx([0.01 * 60 / 30, 0.01 * 60 / 45]), "output size / input size"


def _nan_score(outputs: dict[str, np.ndarray]) -> None:
    outputs["scores"][:1] = np.nan


def _class_shift(outputs: dict[str, np.ndarray]) -> None:
    outputs["pred_classes"] = (outputs["pred_classes"] + 1) % 3


def _scaled(outputs: dict[str, np.ndarray]) -> None:
    outputs["pred_boxes"] *= np.float32(1.01)


def _masks_off(outputs: dict[str, np.ndarray]) -> None:
    outputs["pred_masks"] = np.roll(outputs["pred_masks"], 4, axis=1)


def _dropped(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[1:] for name, value in outputs.items()}


def _swapped(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[::-1] for name, value in outputs.items()}


def _renamed(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.replace("pred_", ""): value for name, value in outputs.items()}


def _ragged(outputs: dict[str, np.ndarray]) -> None:
    outputs["pred_masks"] = outputs["pred_masks"][:1]


def _int32_classes(outputs: dict[str, np.ndarray]) -> None:
    """Postprocessing would hide this one."""
    outputs["pred_classes"] = outputs["pred_classes"].astype(np.int32)


def _raises(outputs: dict[str, np.ndarray]) -> None:
    raise ZeroDivisionError("a kernel failed")


@pytest.mark.parametrize(
    ("fault", "verdict", "reason"),
    [
        (_nan_score, "contract", "scores: 1 values are NaN"),
        (_class_shift, "matching", "missing: class"),
        (_scaled, "numerics", "boxes: 3 of 3 pairs"),
        (_masks_off, "numerics", "masks: "),
        (_dropped, "matching", "missing: class 0"),
        (_swapped, "contract", "do not descend"),
        (_renamed, "contract", "the contract declares"),
        (_ragged, "contract", "pred_masks: shape"),
        (_int32_classes, "contract", "pred_classes: dtype int32"),
        (_raises, "contract", "ZeroDivisionError: a kernel failed"),
    ],
)
def test_a_planted_fault_is_told_by_its_verdict(
    fault: Callable[..., Any], verdict: str, reason: str, reference: Reference, session: Session
) -> None:
    report = validate(Broken(session, fault), reference, TOLERANCE, job="j")
    assert not report.passed
    assert [name for name, one in report.verdicts.items() if not one.passed] == [verdict]
    assert report.reasons[0].startswith("0003-1x")
    assert reason in " ".join(report.reasons)


def test_a_runtime_that_fails_on_one_sample_fails_the_job(reference: Reference, session: Session) -> None:
    def fault(outputs: dict[str, np.ndarray]) -> None:
        if not len(outputs["scores"]):
            raise RuntimeError("cannot reshape tensor of 0 elements")

    report = validate(Broken(session, fault), reference, TOLERANCE, job="j")
    assert [sample.passed for sample in report.samples.values()] == [True, True, False, False]
    assert report.reasons == ("0004-1x and 1 more: RuntimeError: cannot reshape tensor of 0 elements",)
    assert report.to_json()["samples"][2]["errors"] == {}


def test_a_reference_without_detections_proves_nothing(reference: Reference, session: Session) -> None:
    dark = replace(reference, samples=reference.samples[2:])
    assert "too few detections" in validate(session, dark, TOLERANCE, job="j").reasons[0]
    assert validate(session, dark, TOLERANCE, job="j", min_detections=0).passed
    empty = replace(reference, samples=())
    assert not validate(session, empty, TOLERANCE, job="j", min_detections=0).passed


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_stored_compared_and_kept_for_drawing(kind: str, tmp_path: Path) -> None:
    contract = write_tiny_onnx(tmp_path / "artifact", kind).contract
    session = OnnxRuntime(threads=1).open(tmp_path / "artifact")
    image, size = tiny_image(), (30, 50)
    expected = postprocess(session(image), size, OUTPUT_SIZE, contract)
    meta = SampleMeta("a", 1, "1.png", size, OUTPUT_SIZE, 1.0)
    write_reference(tmp_path / "reference", [(meta, image, expected)], contract=contract, environment={})
    reference = read_reference(tmp_path / "reference")
    stored = reference.samples[0].expected()
    assert stored.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(stored[name], value)
    report = validate(session, reference, TOLERANCE, job="j", draw=1)
    assert report.passed, report.reasons
    report.save(tmp_path / "j.json", tmp_path / "j.npz")
    assert read_drawn(tmp_path / "j.npz")["a"].keys() == expected.keys()
    worst = json.loads((tmp_path / "j.json").read_text())["max"]
    assert worst
    # The similarity of keypoints takes sigmas, which this model has not.
    assert {error for name, error in worst.items() if name != "keypoint_oks_error"} == {0}


@pytest.mark.parametrize(
    ("kind", "field", "reason"),
    [
        ("keypoints", "pred_keypoints", "keypoints: "),
        ("semantic", "sem_seg", "sem_seg: "),
        ("panoptic", "sem_seg", "sem_seg: "),
        ("proposals", "objectness_logits", "objectness_logits: 3 of 3 pairs"),
        ("proposals", "proposal_boxes", "boxes: 3 of 3 pairs"),
    ],
)
def test_a_planted_fault_of_each_kind_does_not_pass(
    kind: str, field: str, reason: str, tmp_path: Path
) -> None:
    contract = write_tiny_onnx(tmp_path / "artifact", kind).contract
    session = OnnxRuntime(threads=1).open(tmp_path / "artifact")
    image, size = tiny_image(), (30, 50)
    meta = SampleMeta("a", 1, "1.png", size, size, 1.0)
    expected = postprocess(session(image), size, size, contract)
    write_reference(tmp_path / "reference", [(meta, image, expected)], contract=contract, environment={})

    def fault(outputs: dict[str, np.ndarray]) -> None:
        outputs[field] *= np.float32(1.01)

    report = validate(Broken(session, fault), read_reference(tmp_path / "reference"), TOLERANCE, job="j")
    assert reason in " ".join(report.reasons)


def test_logits_of_a_padded_image_break_the_contract(tmp_path: Path) -> None:
    """Free dimensions of an output are those of the image that was given."""
    contract = write_tiny_onnx(tmp_path, "semantic").contract
    outputs = OnnxRuntime(threads=1).open(tmp_path)(tiny_image(32, 64))
    assert output_faults(outputs, contract, tiny_image(32, 64), (32, 64)) == []
    faults = output_faults(outputs, contract, tiny_image(30, 50), (30, 50))
    assert faults == ["sem_seg: shape (3, 32, 64), expected (3, 30, 50)"]


def test_a_reference_of_another_contract_fails(reference: Reference, session: Session) -> None:
    other = replace(reference, contract=replace(reference.contract, score_threshold=0.625))
    (reason, *_) = validate(session, other, TOLERANCE, job="j").reasons
    assert "contract differs" in reason
    assert f"score_threshold: {reference.contract.score_threshold} here, 0.625 there" in reason


def test_an_artifact_that_cannot_be_opened_is_a_verdict(
    reference: Reference, tiny_onnx: Path, tmp_path: Path
) -> None:
    (tmp_path / "artifact.json").write_bytes((tiny_onnx / "artifact.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    report = validate_artifact(OnnxRuntime(), tmp_path, reference, TOLERANCE, job="j")
    assert not report.passed
    assert "cannot be opened: ArtifactError" in report.reasons[0]
    assert report.artifact_sha256 == read_artifact(tmp_path).sha256
    assert report.to_json()["max"]["box_error_px"] is None


def test_a_runtime_that_is_not_there_is_no_verdict(reference: Reference, tiny_onnx: Path) -> None:
    class Absent:
        def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
            raise RuntimeUnavailableError("not installed")

    with pytest.raises(RuntimeUnavailableError):
        validate_artifact(Absent(), tiny_onnx, reference, TOLERANCE, job="j")


def test_validation_imports_neither_the_model_nor_torch() -> None:
    code = (
        "import sys, detexport.parity, detexport.runtime.onnxruntime\n"
        "print([name for name in ('torch', 'detexport.modeling', 'mlflow') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_graph_that_ends_pasted_is_held_against_the_same_reference(tmp_path: Path) -> None:
    contract = CONTRACTS["everything"]
    write_tiny_pasted(tmp_path / "artifact", contract)
    image, size = tiny_image(), (30, 50)
    expected = postprocess(raw_outputs(contract, image), size, OUTPUT_SIZE, contract)
    meta = SampleMeta("a", 1, "1.png", size, OUTPUT_SIZE, 1.0)
    write_reference(tmp_path / "reference", [(meta, image, expected)], contract=contract, environment={})
    session = TorchScript().open(tmp_path / "artifact")
    report = validate(session, read_reference(tmp_path / "reference"), TOLERANCE, job="j")
    assert report.passed, report.reasons
    assert report.to_json()["detections"] == {"expected": 3, "actual": 3, "paired": 3}

    def shrink(outputs: dict[str, np.ndarray]) -> None:
        outputs["pred_masks"] = outputs["pred_masks"][:, :-1]

    broken = validate(Broken(session, shrink), read_reference(tmp_path / "reference"), TOLERANCE, job="j")
    assert "pred_masks: shape" in broken.reasons[0]
