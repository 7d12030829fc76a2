"""A reference on disk: read back as it was written, the same bytes every time, nothing that is invalid."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.contract import IMAGE
from detexport.errors import DataError
from detexport.outputs import Outputs
from detexport.processing.postprocess import postprocess
from detexport.reference.store import (
    EagerAccuracy,
    Reference,
    SampleMeta,
    of_model,
    read_reference,
    write_reference,
)
from tiny_artifacts import KINDS, tiny_contract, tiny_image
from tiny_models import CONTRACTS, raw_outputs

CONTRACT = CONTRACTS["everything"]
OUTPUT_SIZE = (60, 100)
ACCURACY = EagerAccuracy({"bbox/AP": 0.5}, (3, "a"), {"3": np.arange(4)})


def samples() -> Iterator[tuple[SampleMeta, np.ndarray, Outputs]]:
    """Two images at two sizes each, the second one dark, with every kind of output."""
    for image_id, brightness in [(3, (200, 90, 140)), (4, (20, 20, 20))]:
        for scale, size in [(1.0, (30, 50)), (1.5, (45, 75))]:
            image = tiny_image(*size, brightness)
            id = f"{image_id:04d}-{scale:g}x"
            meta = SampleMeta(id, image_id, f"{image_id:06d}.png", size, OUTPUT_SIZE, scale)
            yield meta, image, postprocess(raw_outputs(CONTRACT, image), size, OUTPUT_SIZE, CONTRACT)


def write(folder: Path, changed: Any = None, **given: Any) -> Path:
    options = {"contract": CONTRACT, "environment": {"torch": "2", "threads": 1}, **given}
    write_reference(folder, samples() if changed is None else changed, **options)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("reference") / "reference", accuracy=ACCURACY)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return read_reference(folder)


def test_samples_are_read_as_they_were_written(folder: Path, reference: Reference) -> None:
    assert reference.environment == {"torch": "2", "threads": 1}
    index = json.loads((folder / "reference.json").read_text())["samples"]
    for stored, entry, (meta, image, expected) in zip(reference.samples, index, samples(), strict=True):
        assert stored.meta == meta
        assert stored.detections == entry["detections"] == len(expected["scores"])
        np.testing.assert_array_equal(stored.image(), image)
        found = stored.expected()
        assert found.keys() == expected.keys()
        assert found.pop("segments_info") == expected.pop("segments_info")
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name])
            assert value.dtype == expected[name].dtype


def test_the_coverage_is_that_of_the_samples(reference: Reference) -> None:
    coverage = reference.coverage
    assert coverage.kinds == {"data": 4}
    assert (coverage.sizes, coverage.batches, coverage.most, coverage.without) == (2, 0, 3, 2)


def test_a_distance_to_a_threshold_is_counted_with_the_sample(tmp_path: Path) -> None:
    """Below the threshold, the outputs do not have the detection."""
    threshold = CONTRACT.score_threshold
    near = (
        (replace(meta, threshold=threshold, threshold_distance=-1e-3), *rest) for meta, *rest in samples()
    )
    (first, *_) = read_reference(write(tmp_path / "r", near)).coverage.thresholds
    assert (first.threshold, first.below) == (threshold, 1e-3)


def test_the_metrics_come_back_with_their_tallies(reference: Reference, tmp_path: Path) -> None:
    assert reference.accuracy == ACCURACY
    assert reference.accuracy is not None
    np.testing.assert_array_equal(reference.accuracy.tallies["3"], ACCURACY.tallies["3"])
    assert read_reference(write(tmp_path / "r")).accuracy is None


def test_a_reference_has_the_same_bytes_every_time(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "r", accuracy=ACCURACY)
    paths = [path.relative_to(folder) for path in folder.rglob("*.*")]
    assert len(paths) == 6
    for path in paths:
        assert (tmp_path / "r" / path).read_bytes() == (folder / path).read_bytes()


def test_a_reference_without_samples_is_one(tmp_path: Path) -> None:
    assert read_reference(write(tmp_path / "r", iter(()))).samples == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta, image, d: (replace(meta, image_size=(9, 9)), image, d), "image: uint8"),
        (lambda meta, image, d: (meta, image.astype(np.float32), d), "image: float32"),
        (lambda meta, image, d: (meta, image, {**d, "scores": d["scores"] * np.nan}), "NaN"),
        (lambda meta, image, d: (meta, image, {**d, "scores": d["scores"][::-1]}), "do not descend"),
        (lambda meta, image, d: (replace(meta, output_size=(9, 9)), image, d), r"expected \(3, 9, 9\)"),
        (lambda meta, image, d: (replace(meta, id="same"), image, d), "'same'.*another sample has this id"),
    ],
)
def test_a_faulty_sample_writes_nothing(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "reference", (change(*sample) for sample in samples()))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_the_former_reference(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "r")

    def interrupted() -> Iterator[Any]:
        yield next(samples())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "r", interrupted())
    assert len(read_reference(tmp_path / "r").samples) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def _index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / "reference.json").read_text())
        change(value)
        (folder / "reference.json").write_text(json.dumps(value))

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "reference.json").unlink(), "FileNotFoundError"),
        (lambda folder: (folder / "reference.json").write_text("{"), "JSONDecodeError|ValueError"),
        (lambda folder: (folder / "reference.json").write_text("[]"), "TypeError"),
        (lambda folder: (folder / "samples/0004-1x.npz").unlink(), "FileNotFoundError: .*0004-1x"),
        (lambda folder: (folder / "tallies.npz").unlink(), "FileNotFoundError"),
        (_index(lambda value: value.pop("contract")), "KeyError: 'contract'"),
        (_index(lambda value: value["samples"][0].update(new=1)), "TypeError: .*'new'"),
    ],
)
def test_a_folder_that_is_no_reference(
    spoil: Callable[[Path], None], message: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "r")
    spoil(tmp_path / "r")
    with pytest.raises(DataError, match=rf"is not a reference; got: ({message}).*remedy: run the stage"):
        read_reference(tmp_path / "r")


def test_the_stored_contract_is_the_models_whatever_was_exported(reference: Reference) -> None:
    assert reference.contract == of_model(CONTRACT)
    fixed = replace(CONTRACT, inputs=(replace(IMAGE, shape=(3, 30, 50)),))
    assert of_model(fixed) == of_model(CONTRACT.ending("pasted")) == of_model(CONTRACT)
    assert of_model(tiny_contract()) != of_model(tiny_contract(**KINDS["keypoints"]))


@pytest.mark.parametrize(("output_size", "scale"), [((30, 50), 1.0), ((60, 150), 3.0), ((15, 10), 0.5)])
def test_the_scale_of_the_output_is_that_of_the_side_that_grows_most(
    output_size: tuple[int, int], scale: float
) -> None:
    assert SampleMeta("a", 1, "", (30, 50), output_size, 1.0).output_scale == scale
