"""The command line of a base install with one runtime: no torch, no MLflow, nothing of the pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_image

ABSENT = (
    *("torch", "torchvision", "safetensors", "onnx", "onnxscript", "openvino", "nncf", "jinja2"),
    *("mlflow", "sqlalchemy", "requests", "filelock", "pandas", "dvc", "hydra", "omegaconf", "psutil"),
)
# A name that holds None in sys.modules is one that Python does not find.
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(sys.argv.pop(1).split(","))
from detexport.cli import main
main()
"""


def run(
    folder: Path, *arguments: object, absent: tuple[str, ...] = ABSENT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(absent), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(tiny_image(60, 90).transpose(1, 2, 0)).save(path)
    return path


@pytest.mark.parametrize("command", [[], ["export"], ["predict"], ["validate"], ["inspect"], ["doctor"]])
def test_the_help_needs_no_extra(tmp_path: Path, command: list[str]) -> None:
    done = run(tmp_path, *command, "--help", absent=(*ABSENT, "scipy", "onnxruntime", "numpy", "packaging"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")


def test_an_onnx_artifact_is_inspected(tmp_path: Path, tiny_onnx: Path) -> None:
    done = run(tmp_path, "inspect", tiny_onnx, "--json", absent=(*ABSENT, "scipy", "onnxruntime"))
    assert json.loads(done.stdout)["format"] == "ONNX"


def test_an_onnx_artifact_predicts_what_it_predicts_with_every_extra(
    tmp_path: Path, tiny_onnx: Path, picture: Path
) -> None:
    command = ("predict", tiny_onnx, picture, "--json", "--score-threshold", 0.3, "--draw", "drawn")
    done = run(tmp_path, *command, absent=(*ABSENT, "scipy"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["images"]
    assert len(row["boxes"]) == len(row["masks"]) == 3 - row["scores"].count(0) > 0
    assert (tmp_path / "drawn" / "picture.png").is_file()
    assert run(tmp_path, *command, absent=()).stdout == done.stdout


def test_an_openvino_artifact_predicts(tmp_path: Path, tiny_openvino: Path, picture: Path) -> None:
    absent = tuple({*ABSENT, "scipy", "onnxruntime"} - {"openvino"})
    done = run(tmp_path, "predict", tiny_openvino, picture, "--json", absent=absent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"][0]["boxes"]


def test_two_artifacts_are_compared_without_torch(tmp_path: Path, tiny_onnx: Path) -> None:
    synthetic_shapes(train_images=0, val_images=1, sizes=((48, 64),)).write(tmp_path / "data")
    options = ("--images", 1, "--accuracy-images", 0, "--json")
    done = run(tmp_path, "validate", tiny_onnx, "--against", tiny_onnx, "--data", "data", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


CONFIG = ("--config-file", "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
EXPORT = (*CONFIG, "--output", "out", "--calibration", "IMAGE", "--no-check")


@pytest.mark.parametrize(
    ("arguments", "absent", "missing", "extras"),
    [
        (["predict", "ONNX", "IMAGE"], ["onnxruntime"], "onnxruntime is", "onnxruntime"),
        (["predict", "TRACING", "IMAGE"], ABSENT, "torch is", "torch"),
        (["inspect", "TRACING", "--dump", "text"], ABSENT, "torch, torchvision are", "torch"),
        (["validate", "ONNX", "--against", "ONNX", "--data", "data"], ["scipy"], "scipy is", "validate"),
        (["diagnose", "ONNX", *CONFIG, "--weights", "IMAGE"], ABSENT, "torch is", "torch"),
        (
            ["export", "--target", "onnx_int8", *EXPORT],
            (*ABSENT, "onnxruntime"),
            "torch, torchvision, onnx, onnxscript, onnxruntime are",
            "onnx,onnxruntime,torch",
        ),
        (
            ["export", "--target", "openvino_int8", *EXPORT],
            ["openvino", "nncf"],
            "openvino, nncf are",
            "openvino-int8",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    tmp_path: Path,
    tiny_onnx: Path,
    tiny_tracing: Path,
    picture: Path,
    arguments: list[str],
    absent: list[str],
    missing: str,
    extras: str,
) -> None:
    paths = {"ONNX": tiny_onnx, "TRACING": tiny_tracing, "IMAGE": picture}
    for folder in ("images", "annotations"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    done = run(tmp_path, *(paths.get(one, one) for one in arguments), absent=tuple(absent))
    assert done.stderr.splitlines()[-1] == (
        f"error: {missing} not installed; remedy: pip install 'detexport[{extras}]'"
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
