"""The stage `build`: class names by the model's own number of classes, and what the stages cannot compare."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import build
from detexport.errors import ConfigError

ROOT = Path(__file__).parents[2]
RETINANET: dict[str, Any] = {
    "META_ARCHITECTURE": "RetinaNet",
    "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
    "FPN": {"IN_FEATURES": ["res3", "res4", "res5"]},
    "RESNETS": {"DEPTH": 18},
    "RETINANET": {"NUM_CLASSES": 2},
}


def build_model_named(folder: Path, tree: dict[str, Any], class_names: list[str] | None = None) -> Path:
    config_file = ROOT / "conf/detectron2/mask_rcnn.yaml"
    model = {"config_file": str(config_file), "config": {"MODEL": tree}, "class_names": class_names}
    params = {"models": {"m": model}, "data": {"categories": None}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dataset.json").write_text(json.dumps({"things": ["a", "b", "c", "d", "e"]}))
    build.main(model="m", dataset=Path("dataset.json"), save_dir=Path("build"))
    return folder / "build"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_retinanet_has_its_own_number_of_classes(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 names: .*expected: 2"):
        build_model_named(folder, RETINANET)
    contract = json.loads((build_model_named(folder, RETINANET, ["x", "y"]) / "contract.json").read_text())
    assert contract["class_names"] == ["x", "y"]
    assert [spec["name"] for spec in contract["outputs"]] == ["pred_boxes", "scores", "pred_classes"]


@pytest.mark.parametrize("name", ["ProposalNetwork", "SemanticSegmentor", "PanopticFPN"])
def test_a_model_whose_outputs_cannot_be_compared_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"META_ARCHITECTURE: {name}"):
        build_model_named(folder, {"META_ARCHITECTURE": name, "RESNETS": {"DEPTH": 18}})
    assert not (folder / "build").exists()


def test_keypoints_cannot_be_compared_yet(folder: Path) -> None:
    with pytest.raises(ConfigError, match="pred_keypoints"):
        build_model_named(folder, {"KEYPOINT_ON": True, "RESNETS": {"DEPTH": 18}})
    assert not (folder / "build").exists()
