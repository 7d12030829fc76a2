"""The calls of a reference: what is run together, and what an artifact does not support."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detexport.artifact import read_artifact
from detexport.contract import IMAGE
from detexport.parity.validate import validate
from detexport.processing.postprocess import postprocess
from detexport.reference.batching import group_by_call, why_unsupported
from detexport.reference.store import Reference, Sample, SampleMeta, read_reference, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from tiny_artifacts import tiny_contract, tiny_image
from tolerances import TOLERANCE

SIZES = [(30, 50), (60, 20), (24, 24)]


def meta(size: tuple[int, int] = (30, 50), batch: str = "", id: str = "a") -> SampleMeta:
    return SampleMeta(id, 1, "1.png", size, size, 1.0, batch=batch)


def test_an_artifact_is_asked_only_for_what_it_claims(tiny_onnx: Path, tiny_scripting: Path) -> None:
    one, many = read_artifact(tiny_onnx), read_artifact(tiny_scripting)
    assert why_unsupported(one, [meta()]) == why_unsupported(many, [meta()]) == ""
    assert why_unsupported(one, [meta(batch="1"), meta(batch="1")]) == "the artifact supports batch size 1"
    assert why_unsupported(many, [meta(batch="1"), meta((60, 20), batch="1")]) == ""
    narrow = replace(one, image_sides=(32, 64))
    assert why_unsupported(narrow, [meta()]) == "the artifact supports images with sides of 32 to 64 px"
    assert why_unsupported(narrow, [meta((32, 64))]) == ""
    frozen = replace(one, contract=tiny_contract(inputs=(replace(IMAGE, shape=(3, 30, 50)),)))
    assert why_unsupported(frozen, [meta()]) == ""
    assert why_unsupported(frozen, [meta((50, 30))]) == "the artifact supports images of one size: 30 x 50"


def test_the_first_image_that_is_unsupported_decides(tiny_scripting: Path) -> None:
    many = replace(read_artifact(tiny_scripting), image_sides=(32, 64))
    group = [meta((40, 64), batch="1"), meta((40, 65), batch="1")]
    assert why_unsupported(many, group[:1]) == ""
    assert why_unsupported(many, group) == "the artifact supports images with sides of 32 to 64 px"


def test_a_batch_is_one_call_and_every_other_sample_its_own() -> None:
    batches = {"a": "", "b": "1", "c": "", "d": "2", "e": "1"}
    samples = [Sample(meta(batch=batch, id=id), 0, Path()) for id, batch in batches.items()]
    calls = ["".join(sample.meta.id for sample in call) for call in group_by_call(iter(samples))]
    assert calls == ["a", "be", "c", "d"]
    assert group_by_call([]) == []


@pytest.fixture(scope="module")
def batched(tiny_scripting: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A reference of the tiny artifacts' own graph: three images alone and in two batches."""
    session, contract = TorchScript().open(tiny_scripting), tiny_contract()

    def samples() -> Iterator[Any]:
        for batch in ("", "1", "2"):
            for index, size in enumerate(SIZES):
                image = tiny_image(*size)
                outputs = postprocess(session(image), size, size, contract)
                yield meta(size, batch, f"{index}-{batch}"), image, outputs

    folder = tmp_path_factory.mktemp("batched") / "reference"
    write_reference(folder, samples(), contract=contract, environment={})
    return read_reference(folder)


def test_batches_run_in_one_call_where_the_artifact_takes_several(
    tiny_scripting: Path, batched: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = TorchScript().open(tiny_scripting)
    calls: list[int] = []
    run_batch = type(session).run_batch

    def counting(self: Any, images: Any, sizes: Any) -> Any:
        calls.append(len(images))
        return run_batch(self, images, sizes)

    monkeypatch.setattr(type(session), "run_batch", counting)
    report = validate(session, batched, TOLERANCE, job="j")
    assert report.passed, report.reasons
    assert calls.count(3) == 2
    assert len(report.samples) == len(batched.samples)


def test_batches_are_left_out_and_told_where_the_artifact_takes_one_image(
    tiny_onnx: Path, batched: Reference
) -> None:
    report = validate(OnnxRuntime(threads=1).open(tiny_onnx), batched, TOLERANCE, job="j")
    assert report.passed, report.reasons
    assert len(report.samples) == len(batched.samples) - 6
    assert set(report.to_json()["unsupported_inputs"]) == {
        sample.meta.id for sample in batched.samples if sample.meta.batch
    }
