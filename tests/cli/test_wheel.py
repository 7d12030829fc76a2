"""The command line of an installed wheel, far from the checkout: no conf/, no src/, no stages/."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from detexport import __version__
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
MEGABYTE = 10**6


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command without this environment's Python path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def succeed(*command: object, cwd: Path) -> str:
    """Run a command that must succeed; return what it printed."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def detexport(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the wheel installs into an environment of its own, beside this one's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv/bin/python"
    # The packages, but not what a .pth among them adds: the project itself is installed there, editable.
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = succeed(python, "-c", code, cwd=folder).strip()
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    succeed(*install, "--no-warn-script-location", wheel, cwd=folder)
    return folder / "venv/bin/detexport"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Install the wheel with extras into a fresh environment, at the pinned versions; return its folder."""

    def install(*extras: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        succeed(UV, "venv", "--quiet", "--python", sys.executable, folder, cwd=ROOT)
        wanted = f"{wheel}[{','.join(extras)}]" if extras else wheel
        install = (UV, "pip", "install", "--quiet", "--python", folder / "bin/python")
        succeed(*install, "--constraint", "requirements.lock", wanted, cwd=ROOT)
        return folder

    return install


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with a configuration, a checkpoint, an image and a data set, and nothing of the checkout."""
    # Copies, so that nothing of the checkout is looked at.
    (tmp_path / "config.yaml").write_text((ROOT / "conf/detectron2/mask_rcnn.yaml").read_text())
    (tmp_path / "model.safetensors").write_bytes((ROOT / "checkpoints/mask_rcnn.safetensors").read_bytes())
    (tmp_path / "image.png").write_bytes((ROOT / "src/detexport/data/sample.png").read_bytes())
    synthetic_shapes(train_images=0, val_images=2).write(tmp_path / "data")
    return tmp_path


MODEL = ("--config-file", "config.yaml", "--weights", "model.safetensors")


def test_the_wheel_is_the_one_that_runs(detexport: Path, tmp_path: Path) -> None:
    python = detexport.with_name("python")
    where = succeed(python, "-c", "import detexport; print(detexport.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(detexport.parents[1])
    assert succeed(detexport, "--version", cwd=tmp_path) == f"detexport {__version__}\n"


def test_it_exports_inspects_and_predicts(detexport: Path, workplace: Path) -> None:
    succeed(detexport, "export", *MODEL, "--target", "tracing", "--output", "artifact", cwd=workplace)
    assert (
        json.loads(succeed(detexport, "inspect", "artifact", "--json", cwd=workplace))["method"] == "tracing"
    )
    found = json.loads(succeed(detexport, "predict", "artifact", "image.png", "--json", cwd=workplace))
    assert len(found["images"][0]["masks"]) >= 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_environment_exports_and_validates_and_another_predicts_without_torch(
    installed: Callable[..., Path], workplace: Path, record_property: Callable[[str, object], None]
) -> None:
    exporting = installed("torch", "onnx", "onnxruntime") / "bin/detexport"
    succeed(exporting, "export", *MODEL, "--target", "onnx", "--output", "artifact", cwd=workplace)
    options = ("--data", "data", "--images", 2, "--accuracy-images", 2, "--json")
    report = json.loads(succeed(exporting, "validate", "artifact", *MODEL, *options, cwd=workplace))
    assert report["passed"] is True
    predict = ("predict", "artifact", "image.png", "--json")
    expected = json.loads(succeed(exporting, *predict, cwd=workplace))
    assert len(expected["images"][0]["masks"]) >= 3

    folder = installed("onnxruntime")
    predicting = folder / "bin/detexport"
    assert json.loads(succeed(predicting, *predict, cwd=workplace)) == expected
    code = (
        "import importlib.util as util; print([m for m in ('torch', 'scipy', 'onnx') if util.find_spec(m)])"
    )
    assert succeed(folder / "bin/python", "-c", code, cwd=workplace) == "[]\n"
    runtimes = json.loads(succeed(predicting, "doctor", "--json", cwd=workplace))["runtimes"]
    assert {one["name"]: one["status"] for one in runtimes} == {
        "PyTorch": "missing",
        "ONNX Runtime": "usable",
        "OpenVINO": "missing",
    }
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    record_property("predicting_environment_mb", size // MEGABYTE)
    print(f"an environment that runs ONNX: {size // MEGABYTE} MB")
    assert size < 300 * MEGABYTE


@pytest.mark.slow
def test_the_base_install_inspects_and_says_what_is_missing(
    installed: Callable[..., Path], tiny_onnx: Path, tmp_path: Path
) -> None:
    detexport = installed() / "bin/detexport"
    assert "ONNX" in succeed(detexport, "inspect", tiny_onnx, cwd=tmp_path)
    image = ROOT / "src/detexport/data/sample.png"
    done = run(detexport, "predict", tiny_onnx, image, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr == (
        "error: onnxruntime is not installed; remedy: pip install 'detexport[onnxruntime]'\n"
    )
