"""The committed checkpoints reach with the current code the metrics recorded at training."""

import json
from pathlib import Path

import pytest
import yaml

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.engine.evaluation import evaluate
from detexport.metrics.evaluate import annotation_kind
from detexport.modeling import build_model
from detexport.system.files import read_json
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "checkpoints"
# Minimum metrics of each.
MINIMUM = {
    "cascade_mask_rcnn": {"bbox/AP": 0.60, "segm/AP": 0.55},
    "faster_rcnn": {"bbox/AP": 0.60},
    # Smaller models, trained briefly, which serve to test their exports.
    "faster_rcnn_C4": {"bbox/AP": 0.15},
    "faster_rcnn_DC5": {"bbox/AP": 0.25},
    "keypoint_rcnn_C4": {"bbox/AP": 0.25, "keypoints/AP": 0.25},
    "keypoint_rcnn_DC5": {"bbox/AP": 0.15, "keypoints/AP": 0.10},
    "mask_rcnn_C4": {"bbox/AP": 0.15, "segm/AP": 0.10},
    "mask_rcnn_DC5": {"bbox/AP": 0.15, "segm/AP": 0.10},
    "keypoint_rcnn": {"bbox/AP": 0.60, "keypoints/AP": 0.60},
    "mask_rcnn": {"bbox/AP": 0.60, "segm/AP": 0.55},
    "panoptic_fpn": {"bbox/AP": 0.60, "segm/AP": 0.55, "panoptic/PQ": 0.55},
    "pointrend": {"bbox/AP": 0.60, "segm/AP": 0.55},
    "proposal_network": {"proposals/AR100": 0.55},
    "retinanet": {"bbox/AP": 0.60},
    "semantic_segmentor": {"sem_seg/mIoU": 0.70},
    "torchvision_faster_rcnn": {"bbox/AP": 0.55},
    "torchvision_fcos": {"bbox/AP": 0.45},
    "torchvision_keypoint_rcnn": {"bbox/AP": 0.55, "keypoints/AP": 0.40},
    "torchvision_mask_rcnn": {"bbox/AP": 0.55, "segm/AP": 0.50},
    "torchvision_retinanet": {"bbox/AP": 0.50},
    "torchvision_ssd": {"bbox/AP": 0.35},
    "torchvision_ssdlite": {"bbox/AP": 0.50},
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The validation images do not depend on the number of training images.
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0).write(folder)
    return folder


@pytest.mark.parametrize("model", sorted(MINIMUM))
def test_a_checkpoint_reaches_the_recorded_metrics(shapes: Path, model: str) -> None:
    options = yaml.safe_load((ROOT / f"conf/model/{model}.yaml").read_text())
    cfg = load_cfg(ROOT / options["config_file"])
    net = build_model(cfg)
    load_weights(net, read_state_dict(CHECKPOINTS / f"{model}.safetensors"))
    things = tuple(read_json(shapes / "dataset.json")["things"])
    dataset = load_coco(shapes, "val", kind=annotation_kind(net.contract(things)))
    measured = evaluate(net, dataset, cfg.TEST.KEYPOINT_OKS_SIGMAS)
    recorded = json.loads((CHECKPOINTS / f"{model}.json").read_text())
    assert set(measured) == set(recorded) - {"train_s"}
    for name, minimum in MINIMUM[model].items():
        assert measured[name] >= minimum
    for name, value in measured.items():
        assert value == pytest.approx(recorded[name], abs=0.005), name


def test_every_checkpoint_is_evaluated() -> None:
    assert {path.stem for path in CHECKPOINTS.glob("*.safetensors")} == set(MINIMUM)


@pytest.mark.parametrize("file", sorted(CHECKPOINTS.glob("*.safetensors")), ids=lambda file: file.stem)
def test_a_file_is_small_enough_to_commit(file: Path) -> None:
    assert file.stat().st_size <= 3_000_000
