"""The command line of an installed wheel, far from the checkout: no conf/, no src/, no stages/."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def detexport(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the wheel installs into an environment of its own, beside this one's packages."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv/bin/python"
    # The packages, but not what a .pth among them adds: the project itself is installed there, editable.
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-warn-script-location", str(wheel)], check=True, capture_output=True)
    return folder / "venv/bin/detexport"


def run(script: Path, folder: Path, *arguments: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [script, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_the_one_that_runs(detexport: Path, tmp_path: Path) -> None:
    python = detexport.with_name("python")
    code = "import detexport; print(detexport.__file__)"
    where = run(python, tmp_path, "-c", code).strip()
    assert Path(where).is_relative_to(detexport.parents[1])


def test_it_exports_inspects_and_predicts(detexport: Path, tmp_path: Path) -> None:
    config, weights = ROOT / "conf/detectron2/mask_rcnn.yaml", ROOT / "checkpoints/mask_rcnn.safetensors"
    # Copies, so that nothing of the checkout is looked at.
    (tmp_path / "config.yaml").write_text(config.read_text())
    (tmp_path / "model.safetensors").write_bytes(weights.read_bytes())
    run(
        detexport,
        tmp_path,
        *("export", "--config-file", "config.yaml", "--weights", "model.safetensors"),
        *("--target", "tracing", "--output", "artifact"),
    )
    assert json.loads(run(detexport, tmp_path, "inspect", "artifact", "--json"))["method"] == "tracing"
    (tmp_path / "picture.png").write_bytes((ROOT / "src/detexport/data/sample.png").read_bytes())
    found = json.loads(run(detexport, tmp_path, "predict", "artifact", "picture.png", "--json"))
    assert len(found["images"][0]["masks"]) >= 3
