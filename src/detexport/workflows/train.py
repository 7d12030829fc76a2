"""Train: a configuration and a data set -> a checkpoint and its metrics on the validation split."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detexport.checkpoint import digest_state_dict, write_state_dict
from detexport.config import CfgNode
from detexport.config.cfg import load_cfg
from detexport.data.coco import CocoDataset, load_coco
from detexport.data.mapping import GroundTruth
from detexport.engine.evaluation import evaluate_in_shares
from detexport.engine.solver import Solver, not_honoured
from detexport.engine.training import (
    TrainingHooks,
    gather_objects,
    launch,
    seed_everything,
    train,
)
from detexport.engine.training_settings import TrainingSettings
from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.registry.settings import RegistrySettings
from detexport.registry.training_run import TrainingRun
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import read_json, write_json
from detexport.workflows.fine_tuning import describe_start, fit_classes, load_start


@dataclass(frozen=True)
class Start:
    """What a fine-tuning starts from.

    Args:
        checkpoint: a path or a URL.
        sha256: digest of the file when the pipeline was composed, which makes the training stale.
        config: a tree of keys that override the model's configuration.
        new_parameters: see ``load_start``.
    """

    checkpoint: str
    sha256: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    new_parameters: Sequence[str] = ()


@dataclass(frozen=True)
class Tracking:
    """Where a training is logged.

    Args:
        workspace: the folder that holds the registry, unless it is a server.
        settings: the registry's.
    """

    workspace: Path
    settings: RegistrySettings

    def run(self, name: str, key: str, settings: TrainingSettings) -> TrainingRun:
        """Return the run of a training.

        Args:
            name: of the model.
            key: digest of the model, its weights and the data.
            settings: the other half of what determines the training.
        """
        values = settings.of_result()
        return TrainingRun(self.workspace, self.settings, name, sha256_json([key, values]), values)


def train_model(
    name: str,
    config_file: Path,
    data: Path,
    recipe: TrainingSettings | Solver,
    *,
    checkpoint: Path,
    metrics: Path,
    categories: Sequence[str] | None = None,
    start: Start | None = None,
    state_file: Path | None = None,
    tracking: Tracking | None = None,
) -> dict[str, float]:
    """Train a model, write its weights, and measure them on the validation split.

    A training that was killed continues from ``state_file``, unless something that determines it has changed.

    Args:
        name: of the model, for its run.
        config_file: the model's configuration.
        data: the data set.
        recipe: how to train; a ``Solver`` reads the configuration.
        checkpoint: file of the weights.
        metrics: file of the metrics.
        categories: names of the data set's classes to keep; none keeps all.
        start: the checkpoint to fine-tune, whose classes may be others; none trains from scratch.
        state_file: file of the training's state while it runs; none keeps no state.
        tracking: where to log the training; none logs nothing.

    Returns:
        The metrics by name.

    Raises:
        ConfigError: the model does not fit the data set, or a setting is not valid.
        CheckpointError: ``start`` cannot be read, or does not fit the model.
        DataError: no image can be trained on.
        DivergedError: the loss is not finite.
        RegistryError: the training cannot be logged.
    """
    description = read_json(data / "dataset.json")
    cfg = load_cfg(config_file)
    if start:
        cfg.merge_from_tree(dict(start.config), source="the model's config")
        fit_classes(cfg, description, categories)
    settings = recipe if isinstance(recipe, TrainingSettings) else recipe.settings(cfg)
    fabric = launch(settings)
    torch.set_num_threads(settings.threads)  # after the start of processes, which sets it too
    net = new_model(cfg, settings.seed)
    truth = ground_truth(cfg, net)
    train_set, val_set = (load_coco(data, split, categories, truth.annotations) for split in ("train", "val"))
    check_fits(cfg, getattr(net, "num_classes", 0), len(train_set.class_names), description)
    if isinstance(recipe, Solver):
        for name_of_key, value in not_honoured(cfg).items():
            fabric.print(f"{name_of_key}: {value} has no effect")
    if start:
        fabric.print(describe_start(load_start(net, cfg, start.checkpoint, start.new_parameters)))
    inputs = [cfg.dump(), digest_state_dict(net.state_dict()), digest_of(train_set), digest_of(val_set)]
    key = sha256_json(inputs)
    run = tracking.run(name, key, settings) if tracking and fabric.is_global_zero else None
    evaluate = partial(
        evaluate_in_shares,
        dataset=val_set,
        keypoint_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        gather=gather_objects,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    began = time.perf_counter()
    hooks = TrainingHooks(evaluate, run.log if run else None, state_file, key, run.start if run else None)
    trained = train(net, train_set, settings, truth, hooks, fabric)
    seconds = time.perf_counter() - began
    net.load_state_dict(trained.weights, strict=False)
    accuracy = evaluate(net)
    if fabric.is_global_zero:
        write_state_dict(trained.weights, checkpoint)
        if run:
            run.finish(accuracy, trained.steps, sha256_file(checkpoint))
        rounded = {metric: round(value, 4) for metric, value in accuracy.items()}
        write_json(metrics, {**rounded, "train_s": round(seconds)})
        if state_file:
            state_file.unlink(missing_ok=True)
    return accuracy


def new_model(cfg: CfgNode, seed: int) -> Any:
    """Build a model on the CPU, with the initial weights of a seed."""
    seed_everything(seed)
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def ground_truth(cfg: CfgNode, net: Any) -> GroundTruth:
    """Return the kinds of annotations that a model is trained on: those of its outputs.

    Args:
        cfg: its configuration; torchvision's models have masks and keypoints without a key for them.
        net: the model.
    """
    outputs = {spec.name for spec in net.contract(()).outputs}
    truth, keypoints = GroundTruth.of(cfg), "pred_keypoints" in outputs
    return replace(
        truth,
        masks=truth.masks or "pred_masks" in outputs,
        keypoints=keypoints,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if keypoints else 0,
    )


def digest_of(dataset: CocoDataset) -> str:
    """Return a digest of a split: its annotation files, classes, and the names and sizes of its images."""
    files = [path for path in (dataset.annotation_file, dataset.panoptic_file) if path.is_file()]
    images = [[record.file_name.name, record.file_name.stat().st_size] for record in dataset.images]
    return sha256_json([list(map(sha256_file, files)), list(dataset.class_names), images])


def check_fits(cfg: Any, num_classes: int, data_classes: int, description: Mapping[str, Any]) -> None:
    """Compare what a model is to learn with the data set, before it learns for long.

    Args:
        cfg: of the model.
        num_classes: of the model; 0 if it has no classes.
        data_classes: classes of the data set that are asked for.
        description: the data set's ``dataset.json``.

    Raises:
        ConfigError: the model has other classes or keypoints than the data set.
    """
    truth = GroundTruth.of(cfg)
    numbers = {"classes": (num_classes, data_classes)} if num_classes and truth.instances else {}
    if truth.keypoints:
        numbers["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = (
            cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS,
            len(description["keypoints"]),
        )
    if truth.sem_seg:
        numbers["MODEL.SEM_SEG_HEAD.NUM_CLASSES (one class for all things, then stuff)"] = (
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
