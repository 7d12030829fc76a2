"""A version in a fresh environment that holds the packages of its own requirements and no others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_project import RUNTIMES, toy_job, write_project

from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings

UV = Path(sys.executable).with_name("uv")
LOAD = """
import importlib.util, json, sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = model.predict(model.input_example)
names = ("torch", "onnx", "onnxruntime", "openvino", "dvc", "hydra", "detexport")
installed = [name for name in names if name != "detexport" and importlib.util.find_spec(name)]
import detexport
print(json.dumps({"rows": rows.to_dict("records"), "installed": installed, "detexport": detexport.__file__}))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stored model of each target, by target."""
    root = tmp_path_factory.mktemp("registered")
    write_project(root, tuple(RUNTIMES))
    jobs = [toy_job(root, target) for target in RUNTIMES]
    register_jobs(jobs, workspace=root, checkout=root, settings=RegistrySettings.of({}))
    found = root.glob("mlartifacts/models/*/artifacts")
    return {next((path / "artifacts").glob("*/artifact.json")).parent.name: path for path in found}


def load_in(python: Path, model: Path) -> Any:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MLFLOW"))}
    command = [str(python), "-I", "-W", "ignore", "-c", LOAD, str(model)]
    done = subprocess.run(command, cwd=model.parent, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "engines"), [("onnx", ["onnxruntime"]), ("openvino", ["openvino"]), ("scripting", ["torch"])]
)
def test_a_version_runs_with_its_own_requirements_alone(
    models: dict[str, Path], tmp_path: Path, target: str, engines: list[str]
) -> None:
    model = models[target]
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, "env"], cwd=tmp_path, check=True)
    install = [UV, "pip", "install", "--quiet", "--python", "env/bin/python"]
    subprocess.run([*install, "-r", str(model / "requirements.txt")], cwd=tmp_path, check=True)
    answer = load_in(tmp_path / "env/bin/python", model)
    assert answer["installed"] == engines
    assert answer["detexport"].startswith(str(model))
    (row,) = answer["rows"]
    assert len(row["boxes"]) == len(row["masks"]) == 3
