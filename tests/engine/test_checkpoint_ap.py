"""The committed checkpoint finds with today's code what it found when it was trained."""

import json
from pathlib import Path

import pytest

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.data.synthetic import SyntheticShapes
from detexport.engine.training import evaluate
from detexport.modeling import build_model

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "checkpoints/mask_rcnn.safetensors"


@pytest.fixture(scope="module")
def precision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    # The validation images do not depend on how many there are to train on.
    folder = tmp_path_factory.mktemp("data") / "shapes"
    SyntheticShapes(train_images=0).write(folder)
    model = build_model(load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml"))
    load_weights(model, read_state_dict(CHECKPOINT))
    return evaluate(model, load_coco(folder, "val"))


def test_average_precision(precision: dict[str, float]) -> None:
    assert precision["bbox/AP"] >= 0.60
    assert precision["segm/AP"] >= 0.55


def test_average_precision_is_what_training_measured(precision: dict[str, float]) -> None:
    recorded = json.loads(CHECKPOINT.with_suffix(".json").read_text())
    for name in ("bbox/AP", "segm/AP", "bbox/AP50", "segm/AP50"):
        assert precision[name] == pytest.approx(recorded[name], abs=0.005)


def test_the_file_is_small_enough_to_commit() -> None:
    assert CHECKPOINT.stat().st_size <= 3_000_000
