"""Train: a model of a configuration on the data set -> a checkpoint and its average precision."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.data.coco import load_coco
from detexport.data.mapping import GroundTruth
from detexport.engine.evaluation import evaluate
from detexport.engine.training import TrainingSettings, seed_everything, train
from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.system.files import read_json, write_json


def train_model(
    config_file: Path,
    data: Path,
    settings: TrainingSettings,
    *,
    checkpoint: Path,
    metrics: Path,
    categories: Sequence[str] | None = None,
) -> dict[str, float]:
    """Train a model, write its weights, and measure them on the validation split.

    Args:
        config_file: the model's configuration.
        data: the data set.
        settings: how to train.
        checkpoint: file of the weights.
        metrics: file of the metrics.
        categories: names of the data set's classes to keep; none keeps all.

    Returns:
        The metrics by name.

    Raises:
        ConfigError: the model does not fit the data set.
        DataError: no image can be trained on.
    """
    torch.set_num_threads(settings.threads)
    seed_everything(settings.seed)
    cfg = load_cfg(config_file)
    net = build_model(cfg)
    truth = GroundTruth.of(cfg)
    train_set, val_set = (load_coco(data, split, categories, truth.annotations) for split in ("train", "val"))
    check_fits(cfg, net.num_classes, len(train_set.class_names), read_json(data / "dataset.json"))
    start = time.perf_counter()
    averaged = train(net, train_set, settings, truth)
    seconds = time.perf_counter() - start
    net.load_state_dict(averaged, strict=False)
    accuracy = evaluate(net, val_set, cfg.TEST.KEYPOINT_OKS_SIGMAS)
    write_state_dict(averaged, checkpoint)
    write_json(
        metrics, {**{name: round(value, 4) for name, value in accuracy.items()}, "train_s": round(seconds)}
    )
    return accuracy


def check_fits(cfg: Any, num_classes: int, data_classes: int, description: Mapping[str, Any]) -> None:
    """Compare what a model is to learn with the data set, before it learns for long.

    Args:
        cfg: of the model.
        num_classes: of the model.
        data_classes: classes of the data set that are asked for.
        description: the data set's ``dataset.json``.

    Raises:
        ConfigError: the model cannot be evaluated on the data set, or has other classes or keypoints.
    """
    truth, meta_arch = GroundTruth.of(cfg), cfg.MODEL.META_ARCHITECTURE
    if meta_arch in ("ProposalNetwork", "SemanticSegmentor"):
        raise ConfigError(
            "the stage trains models that it can evaluate: by their boxes, masks, keypoints or segments",
            got=f"MODEL.META_ARCHITECTURE: {meta_arch}",
            expected="GeneralizedRCNN, RetinaNet, PanopticFPN or one of yours that gives instances",
        )
    numbers = {"classes": (num_classes, data_classes)}
    if truth.keypoints:
        numbers["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = (
            cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS,
            len(description["keypoints"]),
        )
    if truth.sem_seg:
        numbers["MODEL.SEM_SEG_HEAD.NUM_CLASSES, all things being one,"] = (
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            1 + len(description["stuff"]),
        )
    for what, (got, expected) in numbers.items():
        if got != expected:
            raise ConfigError(
                "the model does not fit the data set",
                got=f"{what}: {got}",
                expected=f"{expected}, as many as the data set has",
                remedy="change the configuration, or data.categories",
            )
