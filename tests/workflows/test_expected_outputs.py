"""The other side of a validation: stored by the pipeline, or another artifact on the same inputs."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detexport.artifact import read_artifact
from detexport.errors import ArtifactError
from detexport.parity.noise_floor import NoiseFloor
from detexport.parity.settings import default_settings
from detexport.processing.postprocess import postprocess
from detexport.reference.store import read_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import write_json
from detexport.workflows.expected_outputs import (
    Comparison,
    artifact_outputs,
    named_alike,
    pipeline_outputs,
)
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_contract, write_tiny_onnx

NAMES = ("circle", "square", "star")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=2, sizes=[(48, 64)]).write(folder)
    return folder


@pytest.fixture
def at_work() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def comparison(data: Path, work: Path) -> Comparison:
    return Comparison(data, replace(default_settings(), images=1, accuracy_images=0), work)


def test_the_pipelines_reference_comes_with_its_floor_if_there_is_one(tmp_path: Path) -> None:
    expected = pipeline_outputs(tmp_path / "m/artifacts/onnx")
    assert expected.reference == (tmp_path / "m/reference").resolve()
    assert (expected.floor, expected.name) == (None, str(expected.reference))
    floor = NoiseFloor(("a",), {"threads": 2}, {})
    (tmp_path / "m").mkdir()
    write_json(tmp_path / "m/noise_floor.json", floor.to_json())
    assert pipeline_outputs(tmp_path / "m/artifacts/onnx").floor == floor


def test_names_are_taken_over_where_their_numbers_are_equal() -> None:
    numbered = tiny_contract(class_names=("0", "1", "2"), stuff_class_names=("0",))
    named = named_alike(numbered, tiny_contract(class_names=NAMES, stuff_class_names=("a", "b")))
    assert (named.class_names, named.stuff_class_names) == (NAMES, ("0",))
    assert replace(named, class_names=numbered.class_names) == numbered


def test_another_artifact_is_run_on_every_input_that_it_supports(
    data: Path, tiny_onnx: Path, tmp_path: Path, at_work: ExitStack
) -> None:
    artifact = read_artifact(tiny_onnx)
    options = {"target": "", "device": "cpu"}
    expected = artifact_outputs(tiny_onnx, artifact, comparison(data, tmp_path), at_work, **options)
    reference = read_reference(expected.reference)
    assert (expected.floor, expected.name) == (None, str(tiny_onnx))
    assert reference.environment == {"artifact": artifact.sha256}
    assert reference.accuracy is None
    assert reference.coverage.batches == 0  # its batch size is 1
    assert reference.coverage.kinds["data"] == len(default_settings().plan.scales)
    session = OnnxRuntime().open(tiny_onnx)
    for sample in reference.samples:
        image, meta = sample.image(), sample.meta
        outputs = session(image, meta.output_size)
        found = postprocess(outputs, meta.image_size, meta.output_size, artifact.contract)
        np.testing.assert_array_equal(sample.expected()["scores"], found["scores"])


def test_an_artifact_of_several_images_a_call_has_batches(
    data: Path, tiny_scripting: Path, tmp_path: Path, at_work: ExitStack
) -> None:
    artifact = read_artifact(tiny_scripting)
    options = {"target": "", "device": "cpu"}
    expected = artifact_outputs(tiny_scripting, artifact, comparison(data, tmp_path), at_work, **options)
    assert read_reference(expected.reference).coverage.batches > 0


def test_what_was_computed_is_removed_at_the_end(data: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    artifact, options = read_artifact(tiny_onnx), {"target": "", "device": "cpu"}
    with ExitStack() as at_work:
        expected = artifact_outputs(tiny_onnx, artifact, comparison(data, tmp_path), at_work, **options)
        assert expected.reference.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_artifacts_of_two_models_are_not_compared(
    data: Path, tiny_onnx: Path, tmp_path: Path, at_work: ExitStack
) -> None:
    other = write_tiny_onnx(tmp_path / "other", "keypoints")
    with pytest.raises(ArtifactError, match=r"is not an artifact of the same model; got: .*outputs"):
        artifact_outputs(tiny_onnx, other, comparison(data, tmp_path), at_work, target="", device="cpu")


def test_the_task_metric_is_left_out_or_of_evenly_chosen_images(data: Path, tmp_path: Path) -> None:
    contract = tiny_contract(class_names=("circle", "star"))
    without = comparison(data, tmp_path)
    assert without.annotated(contract) is None
    annotated = replace(without, settings=replace(default_settings(), accuracy_images=1)).annotated(contract)
    assert annotated is not None
    assert (len(annotated.images), annotated.class_names) == (1, ("circle", "star"))
