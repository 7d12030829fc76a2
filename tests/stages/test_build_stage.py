"""The stage `build`: names for what the model's own outputs count."""

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


def build_model_named(
    folder: Path, tree: dict[str, Any], class_names: Any = None, config: Any = None, start: Any = None
) -> Path:
    config_file = ROOT / "conf/detectron2/mask_rcnn.yaml"
    config = {"MODEL": tree, **(config or {})}
    model = {"config_file": str(config_file), "config": config, "class_names": class_names}
    params = {"models": {"m": model}, "data": {"categories": None}, "fine_tunings": {"m": start}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    names = {"things": list("abcde"), "stuff": ["sky", "sea"], "keypoints": ["head", "foot"]}
    (folder / "dataset.json").write_text(json.dumps(names))
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


def contract_of(
    folder: Path, tree: dict[str, Any], class_names: Any = None, config: Any = None
) -> dict[str, Any]:
    built = build_model_named(folder, tree, class_names, config)
    value: dict[str, Any] = json.loads((built / "contract.json").read_text())
    return value


SMALL = {"DEPTH": 18}
PANOPTIC = {"META_ARCHITECTURE": "PanopticFPN", "RESNETS": SMALL, "SEM_SEG_HEAD": {"NUM_CLASSES": 3}}
SEMANTIC = {**PANOPTIC, "META_ARCHITECTURE": "SemanticSegmentor"}
KEYPOINTS = {"KEYPOINT_ON": True, "RESNETS": SMALL, "ROI_KEYPOINT_HEAD": {"NUM_KEYPOINTS": 2}}


def test_a_panoptic_model_has_the_data_sets_things_and_stuff(folder: Path) -> None:
    contract = contract_of(folder, PANOPTIC)
    assert contract["class_names"] == ["a", "b", "c", "d", "e"]
    assert contract["stuff_class_names"] == ["things", "sky", "sea"]
    assert contract["panoptic"]["instances_score_threshold"] == 0.5
    assert [spec["name"] for spec in contract["outputs"]][-1] == "sem_seg"


@pytest.mark.parametrize("class_names", [["u", "v", "w"], {"stuff": ["u", "v", "w"]}])
def test_a_model_of_pixels_has_stuff_alone(folder: Path, class_names: Any) -> None:
    assert contract_of(folder, SEMANTIC)["stuff_class_names"] == ["things", "sky", "sea"]
    contract = contract_of(folder, SEMANTIC, class_names)
    assert contract["stuff_class_names"] == ["u", "v", "w"]
    assert (contract["class_names"], contract["panoptic"]) == ([], None)


def test_a_model_of_proposals_has_no_classes(folder: Path) -> None:
    contract = contract_of(folder, {"META_ARCHITECTURE": "ProposalNetwork", "RESNETS": SMALL})
    assert (contract["class_names"], contract["stuff_class_names"]) == ([], [])
    assert [spec["name"] for spec in contract["outputs"]] == ["proposal_boxes", "objectness_logits"]


def test_keypoints_have_the_data_sets_names_or_none(folder: Path) -> None:
    assert contract_of(folder, KEYPOINTS)["keypoint_names"] == ["head", "foot"]
    five = {**KEYPOINTS, "ROI_KEYPOINT_HEAD": {"NUM_KEYPOINTS": 5}}
    with pytest.raises(ConfigError, match="2 names: head, foot; expected: 5 keypoints"):
        build_model_named(folder, five)
    assert contract_of(folder, five, {"keypoints": list("vwxyz")})["keypoint_names"] == list("vwxyz")


def test_keypoints_have_the_configurations_sigmas(folder: Path) -> None:
    assert contract_of(folder, KEYPOINTS)["keypoint_sigmas"] == []
    sigmas = {"TEST": {"KEYPOINT_OKS_SIGMAS": [0.1, 0.2]}}
    assert contract_of(folder, KEYPOINTS, config=sigmas)["keypoint_sigmas"] == [0.1, 0.2]
    assert contract_of(folder, PANOPTIC, config=sigmas)["keypoint_sigmas"] == []
    with pytest.raises(ConfigError, match="3 sigmas; expected: 2, one for each keypoint"):
        build_model_named(folder, KEYPOINTS, config={"TEST": {"KEYPOINT_OKS_SIGMAS": [0.1, 0.2, 0.3]}})


@pytest.mark.parametrize(
    ("tree", "class_names", "message"),
    [
        (PANOPTIC, {"stuff": ["x"]}, "1 names: x; expected: 3 stuff"),
        (PANOPTIC, ["x"], "1 names: x; expected: 5 things"),
        (SEMANTIC, {"things": ["x"]}, "1 names: x; expected: 0 things"),
        (SEMANTIC, {"thing": ["x"]}, "1 names: x; expected: 0 thing"),
        ({"RESNETS": SMALL}, {"keypoints": ["x"]}, "1 names: x; expected: 0 keypoints"),
    ],
)
def test_names_that_do_not_fit_are_refused(folder: Path, tree: Any, class_names: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model_named(folder, tree, class_names)
    assert not (folder / "build").exists()


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ([0, 1], "things are not names of classes; got: 0, which is not a string, 1, which is not a string"),
        (["x", False], "got: False, which is not a string"),
        ("xy", "got: 'xy', which is not a list"),
        ({"things": "xy"}, "got: 'xy', which is not a list"),
        ({"things": None}, "got: None, which is not a list"),
    ],
)
def test_names_that_are_no_texts_are_refused(folder: Path, class_names: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model_named(folder, RETINANET, class_names)
    assert not (folder / "build").exists()


def test_a_fine_tuned_model_has_the_classes_of_the_data_set(folder: Path) -> None:
    built = build_model_named(folder, RETINANET, start={"checkpoint": "a.pth"})
    assert json.loads((built / "contract.json").read_text())["class_names"] == list("abcde")
    cfg = yaml.safe_load((built / "config.yaml").read_text())
    assert cfg["MODEL"]["RETINANET"]["NUM_CLASSES"] == 5
