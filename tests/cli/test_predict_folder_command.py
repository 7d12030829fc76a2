"""`detexport predict --output`: files of all images of a folder, and requests that do not fit together."""

import json
from pathlib import Path

import pytest
from PIL import Image

from detexport.cli import run_command
from tiny_artifacts import tiny_image

pytest.importorskip("pyarrow")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png"):
        Image.fromarray(tiny_image(40, 60).transpose(1, 2, 0)).save(folder / name)
    return folder


def test_results_are_written_and_counted(
    tiny_onnx: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(tiny_onnx), str(images), "--output", str(tmp_path / "found"), "--format", "coco"]
    assert run_command(words) == 0
    assert "2 images, 2 predicted in this run" in capsys.readouterr().err
    document = json.loads((tmp_path / "found/images.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "deep/b.png"]
    assert run_command(words) == 0
    assert "2 images, 0 predicted in this run" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_an_error_in_the_end(
    tiny_onnx: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "a.png").write_bytes(b"no image")
    assert run_command(["predict", str(tiny_onnx), str(images), "--output", str(tmp_path / "found")]) == 2
    assert "1 of 2 images could not be read; got: a.png: " in capsys.readouterr().err
    assert list((tmp_path / "found/parts").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--engine", "rya"],
            "unknown --engine; got: rya; expected: local or ray; remedy: did you mean 'ray'?",
        ),
        (["--format", "xml"], "unknown --format; got: xml; expected: parquet or coco"),
        (["--json"], "these options cannot be combined with --output; got: --json"),
        (["more"], "--output needs exactly one folder or URL of images"),
        (["--device", "tpu"], "unknown device"),
    ],
)
def test_a_request_that_does_not_fit_is_named(
    options: list[str],
    message: str,
    tiny_onnx: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["predict", str(tiny_onnx), str(images), "--output", str(tmp_path / "found"), *options]
    assert run_command(words) == 2
    assert message.split("; remedy")[0] in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_an_engine_needs_an_output(tiny_onnx: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["predict", str(tiny_onnx), str(images), "--engine", "ray"]) == 2
    assert "--engine needs --output" in capsys.readouterr().err


def test_a_model_without_instances_has_no_coco_results(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_artifacts import write_tiny_onnx

    write_tiny_onnx(tmp_path / "semantic", "semantic")
    words = ["predict", str(tmp_path / "semantic"), str(images), "--output", str(tmp_path / "found")]
    assert run_command([*words, "--format", "coco"]) == 2
    assert "remedy: --format parquet" in capsys.readouterr().err
    assert run_command(words) == 0
