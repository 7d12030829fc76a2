"""The stage `prepare_data`, as DVC calls it."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detexport.data.coco import load_coco
from synthetic_shapes import shapes_options

ROOT = Path(__file__).parents[2]
FOLDER = "detexport.data.coco_folder.CocoFolder"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_params(value: dict) -> None:
    OmegaConf.save(OmegaConf.create(value), "params.yaml")


def prepare_data(save_dir: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "stages/prepare_data.py", save_dir]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_prepare_data_writes_the_set() -> None:
    dataset = shapes_options(train_images=1, val_images=2, sizes=[[64, 80]])
    write_params({"data": {"dataset": dataset}})
    result = prepare_data("data/shapes")
    assert result.returncode == 0, result.stderr
    assert {(r.height, r.width) for r in load_coco(Path("data/shapes"), "val").images} == {(64, 80)}


def test_a_fault_of_the_user_is_one_line_and_leaves_nothing() -> None:
    splits = {"val": {"images": "images", "annotations": "instances.json"}}
    dataset = {"_target_": FOLDER, "source": "missing", "name": "own", "splits": splits}
    write_params({"data": {"dataset": dataset}})
    result = prepare_data("data/own")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(
        "error: the annotation file is missing; got: no file missing/instances.json"
    )
    assert result.stderr.count("\n") == 1
    assert not Path("data/own").exists()
