"""Prediction of a folder: the outputs of the detector, in parts, resumed by the next run; the same on Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import detexport
from detexport.errors import ConfigError
from detexport.execution.engine import Local
from small_ray import small_ray
from tiny_artifacts import tiny_image

pytest.importorskip("pyarrow")
from detexport.batch_prediction.location import Location
from detexport.batch_prediction.parts import read_rows, split
from detexport.workflows.predict_folder import IncompleteError, Request, ResultFormat, predict_folder

COUNT, PART = 22, 4


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index in range(COUNT):
        image = tiny_image(30 + index, 50, (120 + 5 * index, 90, 140))
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{index:03d}.png")
    return folder


def request_for(artifact: Path, images: Path, output: Path, **options: object) -> Request:
    fields = {"score_threshold": 0.3, "part_images": PART, **options}
    return Request(str(artifact), Location.of(str(images)), Location.of(str(output)), **fields)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def local(tiny_onnx: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("local")
    summary = predict_folder(request_for(tiny_onnx, images, folder), Local(), ResultFormat.COCO)
    assert (summary.images, summary.predicted, summary.errors) == (COUNT, COUNT, [])
    return contents(folder)


def test_results_are_those_of_the_detector(tiny_onnx: Path, images: Path, tmp_path: Path) -> None:
    request = request_for(tiny_onnx, images, tmp_path)
    predict_folder(request, Local(), ResultFormat.PARQUET)
    detector = detexport.load(tiny_onnx)
    rows = list(read_rows(split(request.images.images(), PART), request.output))
    assert [row["image"] for row in rows] == [f"{index:03d}.png" for index in range(COUNT)]
    for row in rows:
        expected = detector(images / row["image"], score_threshold=0.3).to_plain()
        assert {name: row[name] for name in expected} == expected


def test_a_run_does_what_is_missing(
    tiny_onnx: Path, images: Path, tmp_path: Path, local: dict[str, bytes]
) -> None:
    request = request_for(tiny_onnx, images, tmp_path)
    predict_folder(request, Local(), ResultFormat.COCO)
    before = (tmp_path / "parts/part-0000000.parquet").stat().st_mtime_ns
    (tmp_path / "parts/part-0000002.parquet").unlink()
    summary = predict_folder(request, Local(), ResultFormat.COCO)
    assert summary.predicted == PART
    assert (tmp_path / "parts/part-0000000.parquet").stat().st_mtime_ns == before
    assert contents(tmp_path) == local


def test_results_of_another_request_are_not_mixed(tiny_onnx: Path, images: Path, tmp_path: Path) -> None:
    request = request_for(tiny_onnx, images, tmp_path)
    predict_folder(request, Local(), ResultFormat.PARQUET)
    other = request_for(tiny_onnx, images, tmp_path, score_threshold=0.4)
    with pytest.raises(ConfigError, match=r"got: score_threshold=0\.4; expected: score_threshold=0\.3"):
        predict_folder(other, Local(), ResultFormat.PARQUET)


def test_an_unreadable_image_is_reported_and_stops_no_other(
    tiny_onnx: Path, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images/005.png").write_bytes(b"no image")
    summary = predict_folder(
        request_for(tiny_onnx, tmp_path / "images", tmp_path / "out"), Local(), ResultFormat.COCO
    )
    ((name, reason),) = summary.errors
    assert name == "005.png"
    assert reason
    document = json.loads((tmp_path / "out/images.json").read_text())
    assert len(document["images"]) == COUNT


def test_a_part_whose_image_cannot_be_fetched_is_left_to_the_next_run(
    tiny_onnx: Path, images: Path, tmp_path: Path, local: dict[str, bytes]
) -> None:
    shutil.copytree(images, tmp_path / "images")
    image = tmp_path / "images/005.png"
    content = image.read_bytes()
    request = request_for(tiny_onnx, tmp_path / "images", tmp_path / "out")
    names = request.images.images()
    image.unlink()
    image.mkdir()  # cannot be read, as a disk that fails

    class Listed(Location):
        def images(self) -> list[str]:
            return names

    failing = replace(request, images=Listed(request.images.name))
    with pytest.raises(IncompleteError, match=r"1 of 6 parts are not complete; got: 005\.png could not be"):
        predict_folder(failing, Local(), ResultFormat.COCO)
    image.rmdir()
    image.write_bytes(content)
    summary = predict_folder(request, Local(), ResultFormat.COCO)
    assert (summary.predicted, summary.errors) == (PART, [])
    found = contents(tmp_path / "out")
    assert {name: found[name] for name in found if name != "job.json"} == {
        name: local[name] for name in local if name != "job.json"
    }


@pytest.fixture(scope="module")
def on_ray() -> Iterator[list[str]]:
    with small_ray():
        import ray

        yield ["--engine", "ray", "--address", ray.get_runtime_context().gcs_address]


def start(artifact: Path, images: Path, output: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "detexport.cli", "predict", str(artifact), str(images)]
    command += ["--output", str(output), "--format", "coco", "--score-threshold", "0.3"]
    return subprocess.Popen(
        [*command, "--part-images", str(PART), *options], stderr=subprocess.PIPE, text=True
    )


def test_actors_of_ray_write_the_same_files(
    on_ray: list[str], tiny_onnx: Path, images: Path, tmp_path: Path, local: dict[str, bytes]
) -> None:
    process = start(tiny_onnx, images, tmp_path, *on_ray)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert f"{COUNT} images, {COUNT} predicted in this run" in errors
    assert contents(tmp_path) == local


def test_a_killed_run_is_continued_on_ray(
    on_ray: list[str], tiny_onnx: Path, images: Path, tmp_path: Path, local: dict[str, bytes]
) -> None:
    process = start(tiny_onnx, images, tmp_path, *on_ray, "--workers", "1")
    until = time.monotonic() + 200
    while not list(tmp_path.glob("parts/*.parquet")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(tmp_path.glob("parts/*.parquet")))
    again = start(tiny_onnx, images, tmp_path, *on_ray)
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert f"{COUNT} images, " in errors
    assert f"{COUNT} of them" not in errors, f"{done} parts were there"
    assert contents(tmp_path) == local
