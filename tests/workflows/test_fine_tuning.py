"""A checkpoint of other classes: its predictors are new and named, all other parameters must match."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.errors import CheckpointError
from detexport.modeling import build_model
from detexport.workflows.fine_tuning import describe_start, fit_classes, load_start, predictor_parameters

CONF = Path(__file__).parents[2] / "conf"
DATASET = {"things": ["a", "b", "c"], "stuff": ["x"], "keypoints": ["k", "l"]}
PREDICTORS = {
    "detectron2/mask_rcnn.yaml": {"roi_heads.box_predictor", "roi_heads.mask_head.predictor"},
    "detectron2/keypoint_rcnn.yaml": {"roi_heads.box_predictor", "roi_heads.keypoint_head.score_lowres"},
    "detectron2/retinanet.yaml": {"head.cls_score"},
    "detectron2/panoptic_fpn.yaml": {
        "roi_heads.box_predictor",
        "roi_heads.mask_head.predictor",
        "sem_seg_head.predictor",
    },
    "detectron2/proposal_network.yaml": set(),
    "torchvision/fcos.yaml": {"head.classification_head.cls_logits"},
}


@pytest.mark.parametrize("file", PREDICTORS)
def test_the_classes_are_those_of_the_data_set_and_the_rest_is_loaded(tmp_path: Path, file: str) -> None:
    cfg = load_cfg(CONF / file)
    torch.manual_seed(1)
    trained = build_model(cfg).state_dict()
    write_state_dict(trained, tmp_path / "model_final.safetensors")
    fit_classes(cfg, DATASET)
    torch.manual_seed(2)
    net = build_model(cfg)
    initial = {name: value.clone() for name, value in net.state_dict().items()}
    report = load_start(net, cfg, str(tmp_path / "model_final.safetensors"))
    new = set(report.new_keys)
    assert {part for name in new for part in PREDICTORS[file] if part in name} == PREDICTORS[file]
    assert all(any(part in name for part in PREDICTORS[file]) for name in new)
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, (initial if name in new else trained)[name]), name
    assert all(name in describe_start(report) for name in new)


def test_selected_categories_count(tmp_path: Path) -> None:
    cfg = load_cfg(CONF / "detectron2/mask_rcnn.yaml")
    fit_classes(cfg, DATASET, ["a"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1


@pytest.fixture
def start(tmp_path: Path) -> tuple[Any, Any, Path]:
    cfg = load_cfg(CONF / "detectron2/faster_rcnn.yaml")
    net = build_model(cfg)
    state = {name: value for name, value in net.state_dict().items() if "fpn_output2" not in name}
    write_state_dict(state, tmp_path / "a.safetensors")
    return net, cfg, tmp_path / "a.safetensors"


def test_other_parameters_must_match(start: tuple[Any, Any, Path]) -> None:
    net, cfg, file = start
    assert all("box_predictor" in name for name in predictor_parameters(cfg, net))
    with pytest.raises(CheckpointError, match=r"missing: backbone\.fpn_output2"):
        load_start(net, cfg, str(file))


def test_further_parameters_may_be_new_by_name(start: tuple[Any, Any, Path]) -> None:
    net, cfg, file = start
    report = load_start(net, cfg, str(file), ["backbone.fpn_output2.*"])
    assert report.new_keys
    assert all(name.startswith("backbone.fpn_output2.") for name in report.new_keys)
