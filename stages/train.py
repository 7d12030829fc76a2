"""Train: a model of a configuration on the data set -> a checkpoint and its average precision."""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
from typer import Option, echo

from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.data.coco import load_coco
from detexport.data.mapping import GroundTruth
from detexport.engine.evaluation import evaluate
from detexport.engine.training import seed_everything, train
from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.system.files import read_json, write_json
from detexport.system.script import run
from stage import instantiate


def main(
    model: Annotated[str, Option()],
    config_file: Annotated[Path, Option()],
    data: Annotated[Path, Option()],
    checkpoint: Annotated[Path, Option()],
    metrics: Annotated[Path, Option()],
) -> None:
    """Train MODEL on DATA; write CHECKPOINT and, measured on the validation split, METRICS."""
    settings = instantiate(load_params(f"models.{model}.training"))
    categories = load_params("data.categories")
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
    quality = evaluate(net, val_set, cfg.TEST.KEYPOINT_OKS_SIGMAS)
    write_state_dict(averaged, checkpoint)
    write_json(
        metrics, {**{name: round(value, 4) for name, value in quality.items()}, "train_s": round(seconds)}
    )
    for name, value in quality.items():
        echo(f"{name}: {value:.3f}")


def check_fits(cfg: Any, num_classes: int, data_classes: int, description: dict[str, Any]) -> None:
    """Hold what a model is to learn against the data set, before it learns for long.

    Args:
        cfg: of the model.
        num_classes: of the model.
        data_classes: classes of the data set that are asked for.
        description: the data set's ``dataset.json``.

    Raises:
        ConfigError: the model cannot be judged on the data set, or has other classes or keypoints.
    """
    truth, meta_arch = GroundTruth.of(cfg), cfg.MODEL.META_ARCHITECTURE
    if meta_arch in ("ProposalNetwork", "SemanticSegmentor"):
        raise ConfigError(
            "the stage trains models that it can judge: by their boxes, masks, keypoints or segments",
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


if __name__ == "__main__":
    run(main)
