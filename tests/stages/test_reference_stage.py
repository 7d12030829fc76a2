"""The stage `reference` on data that lack what the task metric needs: an error, whose remedy works."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.reference.store import read_reference
from detexport.system.files import write_json
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
# What each model is judged by, and what the synthetic set is to lack.
LACKING = {
    "keypoint_rcnn": "annotations/keypoints_val.json",
    "mask_rcnn": "segmentation",
    "semantic_segmentor": "semantic_val",
    "panoptic_fpn": "panoptic_val",
}
PARITY = {
    "images": 1,
    "scales": [1.0],
    "inputs": {
        "mosaics": 1,
        "mosaic_area": 1.0,
        "one_runs": 1,
        "threshold_runs": 1,
        "threshold_distance": 1e-5,
        "offset": 5e-4,
    },
}


def reference(workspace: Path, accuracy_images: int) -> subprocess.CompletedProcess[str]:
    params = {"data": {"categories": None}, "parity": {**PARITY, "accuracy_images": accuracy_images}}
    (workspace / "params.yaml").write_text(yaml.safe_dump(params))
    paths = {"build": "build", "weights": "weights", "data": "data", "save-dir": "reference"}
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    command = [sys.executable, str(ROOT / "stages/reference.py"), *options]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def place_model(name: str, workspace: Path) -> None:
    """A model of the shipped checkpoint, or of random weights where there is none."""
    config = ROOT / f"conf/detectron2/{name}.yaml"
    (workspace / "build").mkdir()
    cfg = load_cfg(config)  # with its bases
    (workspace / "build" / "config.yaml").write_text(cfg.dump())
    net = build_model(cfg).eval()
    things = () if name == "semantic_segmentor" else tuple("abcde")
    write_json(workspace / "build" / "contract.json", net.contract(things).to_json())
    (workspace / "weights").mkdir()
    checkpoint = ROOT / f"checkpoints/{name}.safetensors"
    weights = workspace / "weights" / "model.safetensors"
    if checkpoint.is_file():
        shutil.copy(checkpoint, weights)
    else:
        write_state_dict(net.state_dict(), weights)


def take_away(lacking: str, data: Path) -> None:
    if (data / lacking).is_dir():
        shutil.rmtree(data / lacking)
    elif (data / lacking).is_file():
        (data / lacking).unlink()
    else:
        file = data / "annotations" / "instances_val.json"
        value: dict[str, Any] = json.loads(file.read_text())
        for annotation in value["annotations"]:
            del annotation[lacking]
        file.write_text(json.dumps(value))


@pytest.mark.parametrize("name", LACKING)
def test_data_without_what_the_metric_needs_say_how_to_go_without(name: str, tmp_path: Path) -> None:
    synthetic_shapes(train_images=0, val_images=2, sizes=[(64, 80)]).write(tmp_path / "data")
    take_away(LACKING[name], tmp_path / "data")
    place_model(name, tmp_path)
    done = reference(tmp_path, accuracy_images=2)
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in error for word in ("; got: ", "; expected: ", "; remedy: "))
    assert error.endswith(", or leave the task metric out: -S parity.accuracy_images=0")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "reference").exists()
    done = reference(tmp_path, accuracy_images=0)
    assert done.returncode == 0, done.stderr
    assert read_reference(tmp_path / "reference").accuracy is None
