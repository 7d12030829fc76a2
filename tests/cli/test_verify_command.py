"""``detexport verify`` as a process, against a registry that the register stage made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
URI = "models:/toy-onnx/1"


def environment(folder: Path) -> dict[str, str]:
    paths = ("src", "stages", "tests", "tests/registry")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / path) for path in paths),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    write = "import pathlib, toy_project; toy_project.write_project(pathlib.Path())"
    stage = ["--models-dir", "outputs/models", "--digests-dir", "outputs/digests"]
    stage += ["--data-statistics", "outputs/data_statistics.json", "--receipts", "outputs/registered.json"]
    without = {k: v for k, v in environment(folder).items() if k != "MLFLOW_TRACKING_URI"}
    for command in (
        [sys.executable, "-c", write],
        [sys.executable, str(ROOT / "stages/register.py"), *stage],
    ):
        subprocess.run(command, cwd=folder, env=without, check=True, capture_output=True)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detexport.cli", "verify", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


def test_the_exit_code_and_the_message_say_what_does_not_hold(registry: Path) -> None:
    done = run(registry, URI)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(f"{URI}: toy-onnx version 1, provenance ")
    assert done.stdout.splitlines()[-1] == "all checks passed"
    assert "  sample       ok        0-1x: 3 detections paired" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.endswith(" ...")] == [
        "download toy-onnx version 1 ...",
        "compare its files with their digests ...",
        "load the model and run its sample ...",
    ]

    document = json.loads(run(registry, URI, "--json", "--no-sample").stdout)
    assert document["holds"] is True
    assert [check["name"] for check in document["checks"]][-1] == "certificate"

    path = next(registry.glob("mlartifacts/models/*/artifacts/requirements.txt"))
    before = path.read_text()
    path.write_text(f"{before}\nevil==1.0\n")
    done = run(registry, URI)
    path.write_text(before)
    assert done.returncode == 1
    assert "  model files  FAILED\n    changed: requirements.txt\n" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed: model files, content"
    assert "  sample       not done\n    a check of the files failed\n" in done.stdout

    done = run(registry, URI, "--no-sample", "--provenance-sha256", "0" * 64)
    assert done.returncode == 1
    assert f"expected {'0' * 64}" in done.stdout


@pytest.mark.parametrize(
    ("uri", "code", "words"),
    [
        ("toy-onnx", 2, "this is not a registered version"),
        ("models:/toy-onnx/9", 2, "has no such version; got: models:/toy-onnx/9: "),
        ("models:/other@champion", 2, "has no such version; got: models:/other@champion: "),
    ],
)
def test_what_cannot_be_verified_is_one_line(registry: Path, uri: str, code: int, words: str) -> None:
    done = run(registry, uri)
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_registry_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    done = run(tmp_path, "models:/toy-onnx/1")
    assert done.returncode == 2
    assert f"error: there is no registry here; got: no {tmp_path}/mlflow.db" in done.stderr
    assert not (tmp_path / "mlflow.db").exists()
