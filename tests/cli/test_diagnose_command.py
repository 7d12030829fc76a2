"""`detexport diagnose`: of an artifact, the first part of the model that computes something else."""

import json
import shutil
from pathlib import Path

import pytest
from running import Run

from detexport.artifact import read_artifact
from detexport.checkpoint import read_state_dict, write_state_dict
from detexport.cli.checks import Request
from detexport.cli.export import export
from detexport.config.cfg import load_cfg

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "conf/detectron2/faster_rcnn.yaml"
WEIGHTS = ROOT / "checkpoints/faster_rcnn.safetensors"
MODEL = ("--config-file", CONFIG, "--weights", WEIGHTS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed") / "models" / "m" / "artifacts" / "tracing"
    export(Request(str(CONFIG), str(WEIGHTS), "tracing", folder, check=False))
    return folder


def test_an_artifact_that_is_the_model_diverges_nowhere(exported: Path, run: Run, tmp_path: Path) -> None:
    done = run("diagnose", exported, *MODEL, "--save-dir", tmp_path / "saved")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "tracing in TorchScript, on an image of 256 x 192 px"
    assert lines[-1].startswith("Nothing diverges on this image")
    assert [line.split()[:2] for line in lines if line.startswith("  box_")] == [
        ["box_pooled", "passed"],
        ["box_head", "passed"],
        ["box_inference", "passed"],
    ]
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["diagnosis.json"]


def test_beside_the_pipelines_folders_it_needs_no_options(exported: Path, run: Run) -> None:
    model = exported.parents[1]
    (model / "build").mkdir()
    (model / "weights").mkdir()
    cfg = load_cfg(CONFIG)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    (model / "build" / "config.yaml").write_text(cfg.dump())
    shutil.copy(WEIGHTS, model / "weights" / "model.safetensors")
    done = run("diagnose", exported, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["first"] is None
    assert found["artifact_sha256"] == read_artifact(exported).sha256


def test_another_models_weights_or_configuration_are_told(exported: Path, run: Run, tmp_path: Path) -> None:
    weights = read_state_dict(WEIGHTS)
    name = "roi_heads.box_predictor.cls_score.bias"
    write_state_dict({**weights, name: weights[name] + 1}, tmp_path / "other.safetensors")
    done = run("diagnose", exported, "--config-file", CONFIG, "--weights", tmp_path / "other.safetensors")
    assert done.returncode == 2
    assert "was exported from another model; got: weights" in done.stderr
    done = run("diagnose", exported, *MODEL, "MODEL.ROI_HEADS.NMS_THRESH_TEST", "0.4")
    assert done.returncode == 2
    assert "got: configuration" in done.stderr


def test_what_is_missing_is_named(exported: Path, run: Run, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere" / "artifacts" / "tracing"
    shutil.copytree(exported, alone)
    done = run("diagnose", alone)
    assert done.returncode == 2
    assert "no --config-file is given" in done.stderr
    (alone / "model.pt").write_bytes(b"other")
    assert "is not the file that was exported" in run("diagnose", alone, *MODEL).stderr
