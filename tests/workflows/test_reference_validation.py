"""The one validation: in this process, or in one without the code of any model."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.errors import ArtifactError, ConfigError, DataError, OutOfMemoryError
from detexport.parity.compare import Noise
from detexport.parity.noise_floor import NoiseFloor
from detexport.parity.settings import default_settings
from detexport.parity.validate import Support
from detexport.processing.postprocess import postprocess
from detexport.reference.resume import progress_folder
from detexport.reference.store import Reference, SampleMeta, read_reference, write_reference
from detexport.runtime import Session
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.workflows.reference_validation import validate_against_reference, validate_apart
from tiny_artifacts import tiny_image


@dataclass(frozen=True)
class Witness:
    """A runtime that writes down the modules of the process that it is opened in."""

    file: Path

    def open(self, artifact_dir: Path, device: str = "cpu") -> Session:
        self.file.write_text("\n".join(sys.modules))
        return OnnxRuntime(threads=1).open(artifact_dir, device)


@dataclass
class Breaking:
    """A runtime that has memory for one image."""

    calls: int = 0

    def open(self, artifact_dir: Path, device: str = "cpu") -> "Breaking":
        self.session = OnnxRuntime(threads=1).open(artifact_dir, device)
        self.artifact = self.session.artifact
        return self

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> Any:
        self.calls += 1
        if self.calls > 1:
            raise MemoryError
        return self.session(image, size)


@pytest.fixture
def artifact(tiny_onnx: Path) -> Path:
    return tiny_onnx


@pytest.fixture(scope="module")
def reference(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    session, image = OnnxRuntime(threads=1).open(tiny_onnx), tiny_image()
    size = image.shape[1:]
    contract = session.artifact.contract
    expected = postprocess(session(image), size, size, contract)
    metas = [SampleMeta("alone", 1, "", size, size, 1.0)]
    metas += [SampleMeta(name, 1, "", size, size, 1.0) for name in ("second", "third")]
    metas += [SampleMeta(f"batch-{n}", 1, "", size, size, 1.0, batch="1") for n in (1, 2)]
    folder = tmp_path_factory.mktemp("reference") / "reference"
    write_reference(folder, [(meta, image, expected) for meta in metas], contract=contract, environment={})
    return read_reference(folder)


def test_an_artifact_is_run_where_no_model_is(artifact: Path, reference: Reference, tmp_path: Path) -> None:
    import detexport.modeling  # noqa: F401

    seen = tmp_path / "modules"
    report = validate_apart(artifact, Witness(seen), reference, replace(default_settings(), draw=0), job="j")
    assert report.passed, report.reasons
    modules = seen.read_text().splitlines()
    assert "detexport.workflows.reference_validation" in modules
    assert not [name for name in modules if name.startswith("detexport.modeling")]
    assert "torch" not in modules
    same = validate_against_reference(
        artifact, OnnxRuntime(), reference, replace(default_settings(), draw=0), job="j"
    )
    assert report.to_json() == same.to_json()


def test_what_is_raised_there_is_raised_here(artifact: Path, reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere is not an artifact"):
        validate_apart(tmp_path / "nowhere", OnnxRuntime(), reference, default_settings(), job="j")


def test_what_was_measured_beside_another_noise_is_measured_again(
    artifact: Path, reference: Reference, tmp_path: Path
) -> None:
    """The floors have the same limits, and differ in what one input leaves undetermined."""
    floors = [NoiseFloor((), {}, {}, {"alone": Noise({}, undetermined)}) for undetermined in ((), (0,))]
    kept = progress_folder(tmp_path / "report.json") / "measured.jsonl"
    seen = []
    for floor in (floors[0], floors[0], floors[1]):
        with pytest.raises(OutOfMemoryError):
            validate_against_reference(
                artifact,
                Breaking(),
                reference,
                default_settings(),
                job="j",
                floor=floor,
                save_to=tmp_path / "report.json",
            )
        seen.append(kept.read_text().splitlines())
    first, again, other = seen
    assert again[: len(first)] == first
    assert other[0] != first[0]


def test_precision_needs_a_budget_and_a_metric(artifact: Path, reference: Reference) -> None:
    with pytest.raises(ConfigError, match="no budget for the precision fp4"):
        validate_against_reference(
            artifact, OnnxRuntime(), reference, default_settings(), job="j", precision="fp4"
        )
    with pytest.raises(DataError, match="the reference has none"):
        validate_against_reference(
            artifact, OnnxRuntime(), reference, default_settings(), job="j", precision="int8"
        )


def test_a_target_may_declare_less_than_its_artifact(artifact: Path, reference: Reference) -> None:
    options = {"job": "j", "support": Support(image_sides=(1, 8))}
    report = validate_against_reference(artifact, OnnxRuntime(), reference, default_settings(), **options)
    assert "alone" in report.unsupported_inputs
    assert "declared support" in report.verdicts["contract"].note
    assert not report.passed  # nothing was shown to it


@pytest.mark.parametrize(("batch", "sides"), [("2", (1, 9)), ("any", (9, 1)), ("any", (1,)), ("1", (0, 9))])
def test_a_support_that_declares_nothing_is_refused(batch: str, sides: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="support cannot be used"):
        Support(batch, sides)


def test_a_misspelt_support_is_refused() -> None:
    assert Support.of({"batch": "1"}) == Support(batch="1")
    with pytest.raises(ConfigError, match="got: bacth; expected: batch or image_sides; remedy: did"):
        Support.of({"bacth": "1"})
