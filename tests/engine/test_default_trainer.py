"""``DefaultTrainer``: a whole training of a small project, its continuation, and its configuration."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detexport.checkpoint import DetectionCheckpointer
from detexport.config import CfgNode, get_cfg
from detexport.data import DatasetCatalog, MetadataCatalog
from detexport.engine import AMPTrainer, DefaultTrainer, default_writers, hooks
from detexport.errors import ConfigError
from detexport.evaluation import DatasetEvaluator
from detexport.modeling import META_ARCH_REGISTRY
from detexport.structures import BoxMode

NAME = "default_trainer_test"


@META_ARCH_REGISTRY.register()
class MeanBrightness(nn.Module):
    """Learns the brightness of the objects."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        brightness = torch.stack([one["image"].float().mean() / 255 for one in batched_inputs])
        if not self.training:
            return [{"brightness": self.weight.item()} for _ in batched_inputs]
        assert all(len(one["instances"]) == 1 for one in batched_inputs)
        return {"loss_brightness": ((self.weight - brightness) ** 2).mean()}


class Collecting(DatasetEvaluator):
    def reset(self) -> None:
        self.values: list[float] = []

    def process(self, inputs: Any, outputs: Any) -> None:
        self.values += [one["brightness"] for one in outputs]

    def evaluate(self) -> Any:
        return {"brightness": {"mean": float(np.mean(self.values)), "images": len(self.values)}}


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return Collecting()


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("images")
    records = []
    for index in range(3):
        file = folder / f"{index}.png"
        Image.fromarray(np.full((32, 40, 3), 204, np.uint8)).save(file)
        annotation = {"bbox": [2, 2, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        records.append(
            {
                **{"file_name": str(file), "image_id": index, "height": 32, "width": 40},
                "annotations": [annotation],
            }
        )
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).thing_classes = ["thing"]
    yield
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def cfg_of(folder: Path, *overrides: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "MeanBrightness", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)),
            *("DATASETS.TRAIN", (NAME,), "DATASETS.TEST", (NAME,), "DATALOADER.NUM_WORKERS", 0, "SEED", 1),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.1, "SOLVER.MAX_ITER", 8, "SOLVER.STEPS", (6,)),
            *(
                "SOLVER.WARMUP_ITERS",
                0,
                "SOLVER.MOMENTUM",
                0.5,
                "SOLVER.CHECKPOINT_PERIOD",
                4,
                "TEST.EVAL_PERIOD",
                4,
            ),
            *("INPUT.MIN_SIZE_TRAIN", (32,), "INPUT.MIN_SIZE_TEST", 32),
            *overrides,
        ]
    )
    return cfg


def test_a_training_writes_metrics_and_checkpoints_and_is_continued(tmp_path: Path) -> None:
    trainer = Trainer(cfg_of(tmp_path / "whole"))
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    weight = trainer.model.weight.item()
    assert 0.3 < weight < 1.0
    assert results == {"brightness": {"mean": pytest.approx(weight), "images": 3}}
    lines = (tmp_path / "whole/metrics.json").read_text().splitlines()
    written: dict[str, Any] = {}
    for line in lines:
        written |= json.loads(line)
    assert {"total_loss", "lr", "time", "brightness/mean"} <= written.keys()
    assert written["lr"] == pytest.approx(0.01)
    names = sorted(path.name for path in (tmp_path / "whole").glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000007.pth", "model_final.pth"]

    half = cfg_of(tmp_path / "half", "SOLVER.MAX_ITER", 8)
    first = Trainer(half)
    first.max_iter = 4
    first.train()
    second = Trainer(half)
    second.resume_or_load(resume=True)
    assert second.start_iter == 4
    second.train()
    assert second.model.weight.item() == pytest.approx(weight)
    assert second.scheduler.last_epoch == 8


def test_the_weights_of_a_configuration_are_loaded(tmp_path: Path) -> None:
    model = MeanBrightness(get_cfg())
    with torch.no_grad():
        model.weight.fill_(0.5)
    DetectionCheckpointer(model, tmp_path).save("start")
    trainer = Trainer(cfg_of(tmp_path / "run", "MODEL.WEIGHTS", str(tmp_path / "start.pth")))
    trainer.resume_or_load(resume=True)
    assert (trainer.model.weight.item(), trainer.start_iter) == (0.5, 0)


def test_evaluators_are_given_or_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg, model = cfg_of(tmp_path), MeanBrightness(get_cfg())
    assert DefaultTrainer.test(cfg, model, Collecting())["brightness"]["images"] == 3
    with caplog.at_level(logging.WARNING, logger="detexport"):
        assert DefaultTrainer.test(cfg, model) == {}
    assert f"{NAME} is not evaluated: DefaultTrainer has no evaluator" in caplog.text
    with pytest.raises(ConfigError, match=r"2 evaluators for DATASETS\.TEST"):
        DefaultTrainer.test(cfg, model, [Collecting(), Collecting()])


def test_hooks_and_trainer_follow_the_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        more = ("SOLVER.AMP.ENABLED", True, "TEST.PRECISE_BN.ENABLED", True, "VIS_PERIOD", 5)
        trainer = Trainer(cfg_of(tmp_path, *more))
    assert "VIS_PERIOD has no effect: MeanBrightness records no images" in caplog.text
    assert isinstance(trainer._trainer, AMPTrainer)
    kinds = [type(hook) for hook in trainer._hooks]
    assert kinds == [
        *(hooks.IterationTimer, hooks.LRScheduler, hooks.PreciseBN, hooks.PeriodicCheckpointer),
        *(hooks.EvalHook, hooks.PeriodicWriter),
    ]
    writers = [type(writer).__name__ for writer in default_writers(str(tmp_path / "new"), 3)]
    assert writers[:2] == ["CommonMetricPrinter", "JSONWriter"]


def test_another_number_of_processes_scales_the_configuration(tmp_path: Path) -> None:
    cfg = cfg_of(tmp_path, "SOLVER.REFERENCE_WORLD_SIZE", 2)
    cfg.freeze()
    scaled = DefaultTrainer.auto_scale_workers(cfg, 4)
    solver = scaled.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.STEPS) == (4, 0.2, 4, (3,))
    assert (solver.CHECKPOINT_PERIOD, scaled.TEST.EVAL_PERIOD, solver.REFERENCE_WORLD_SIZE) == (2, 2, 4)
    assert scaled.is_frozen()
    assert cfg.SOLVER.IMS_PER_BATCH == 2
    assert DefaultTrainer.auto_scale_workers(cfg, 2) is cfg
    with pytest.raises(ConfigError, match="cannot be shared equally"):
        DefaultTrainer.auto_scale_workers(cfg_of(tmp_path, "SOLVER.REFERENCE_WORLD_SIZE", 3), 4)
