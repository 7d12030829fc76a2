"""Each architecture overfits a few images, and gradients reach all its parameters."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detexport.config import CfgNode
from detexport.config.cfg import load_cfg
from detexport.data.coco import CocoDataset, load_coco
from detexport.data.mapping import GroundTruth, training_example
from detexport.engine.evaluation import evaluate
from detexport.engine.training import TrainingSettings, seed_everything, train
from detexport.modeling import build_model
from synthetic_shapes import synthetic_shapes

CONFIGS = Path(__file__).parents[2] / "conf/detectron2"
SETTINGS = TrainingSettings(
    iterations=200,
    batch_size=4,
    learning_rate=0.002,
    warmup_iterations=20,
    weight_decay=0.0,
    gradient_norm=5.0,
    average_decay=0.9,
    flip=False,
    seed=0,
    threads=1,
)
# A configuration and its changes.
C4 = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 24, 40, 64, 96]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "cascade": ("cascade_mask_rcnn", {}),
    "faster": ("faster_rcnn", {}),
    "faster_c4": ("faster_rcnn", C4),
    "keypoint": ("keypoint_rcnn", {}),
    "mask": ("mask_rcnn", {}),
    "panoptic": ("panoptic_fpn", {}),
    "pointrend": ("pointrend", {}),
    "retinanet": ("retinanet", {}),
}
QUICK = "retinanet"
# The later stages of a cascade scale up the remaining box deltas, so their losses fall last.
MORE_ITERATIONS = {"cascade": 600}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(
        train_images=4, val_images=0, sizes=((96, 96),), object_px=(24, 60), max_objects=3
    ).write(folder)
    return folder


class Case:
    """A model of an architecture and its training images."""

    def __init__(self, architecture: str, shapes: Path) -> None:
        name, changes = ARCHITECTURES[architecture]
        self.cfg: CfgNode = load_cfg(CONFIGS / f"{name}.yaml")
        self.cfg.merge_from_list([entry for item in changes.items() for entry in item])
        self.truth = GroundTruth.of(self.cfg)
        self.dataset: CocoDataset = load_coco(shapes, "train", kind=self.truth.annotations)
        seed_everything(0)
        self.model = build_model(self.cfg)

    def losses(self) -> dict[str, torch.Tensor]:
        seed_everything(1)
        examples = [training_example(record, "RGB", self.truth) for record in self.dataset.images]
        return self.model.train()(examples)

    def loss(self) -> float:
        with torch.no_grad():
            return float(sum(self.losses().values()))


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_a_few_images_are_overfitted(shapes: Path, architecture: str) -> None:
    case = Case(architecture, shapes)
    before = case.loss()
    settings = replace(SETTINGS, iterations=MORE_ITERATIONS.get(architecture, SETTINGS.iterations))
    averaged = train(case.model, case.dataset, settings, case.truth).weights
    after = case.loss()
    assert after < before / 10
    case.model.load_state_dict(averaged, strict=False)
    measured = evaluate(case.model, case.dataset, case.cfg.TEST.KEYPOINT_OKS_SIGMAS)
    assert {name: value for name, value in measured.items() if name.endswith("/AP50") and value < 0.9} == {}
    assert measured.get("panoptic/PQ", 1.0) > 0.8


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_trainable_parameter(shapes: Path, architecture: str) -> None:
    case = Case(architecture, shapes)
    sum(case.losses().values()).backward()
    without = [
        name
        for name, parameter in case.model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert without == []
