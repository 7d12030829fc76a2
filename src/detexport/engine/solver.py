"""Training as detectron2's ``SOLVER``, ``INPUT`` and ``DATALOADER`` keys of a configuration describe it."""

from collections.abc import Mapping
from typing import Any

from torchvision.transforms import v2

from detexport.config import get_cfg
from detexport.data.augmentation import Crop, ShortestEdge
from detexport.engine.training_settings import NAMES, TrainingSettings
from detexport.errors import ConfigError, did_you_mean, listed
from detexport.solver.build import check_clip_type

HONOURED = (
    "DATALOADER.ASPECT_RATIO_GROUPING",
    "DATALOADER.NUM_WORKERS",
    "INPUT.CROP.ENABLED",
    "INPUT.CROP.SIZE",
    "INPUT.CROP.TYPE",
    "INPUT.FORMAT",
    "INPUT.MASK_FORMAT",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING",
    "INPUT.RANDOM_FLIP",
    "SEED",
    "SOLVER.AMP.ENABLED",
    "SOLVER.BASE_LR",
    "SOLVER.BASE_LR_END",
    "SOLVER.BIAS_LR_FACTOR",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "SOLVER.CLIP_GRADIENTS.ENABLED",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
    "SOLVER.GAMMA",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.LR_SCHEDULER_NAME",
    "SOLVER.MAX_ITER",
    "SOLVER.MOMENTUM",
    "SOLVER.NESTEROV",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_FACTOR",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.WARMUP_METHOD",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_BIAS",
    "SOLVER.WEIGHT_DECAY_NORM",
    "TEST.EVAL_PERIOD",
)
"""Keys that ``settings_of`` reads, and those of the image format, which the model and its evaluation read."""
NOT_HONOURED = (
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
    "DATALOADER.REPEAT_SQRT",
    "DATALOADER.REPEAT_THRESHOLD",
    "DATALOADER.SAMPLER_TRAIN",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
    "MODEL.LOAD_PROPOSALS",
    "SOLVER.NUM_DECAYS",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "SOLVER.RESCALE_INTERVAL",
    "TEST.PRECISE_BN.ENABLED",
)
"""Keys of a training that have no effect here."""
FLIPS = ("horizontal", "vertical", "none")


class Solver:
    """The training that a configuration describes, with some settings replaced.

    Args:
        **settings: of ``TrainingSettings``; None leaves the configuration's.

    Raises:
        ConfigError: a setting is unknown.
    """

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(settings.keys() - set(NAMES))
        if unknown:
            raise ConfigError(
                "the training has no such setting",
                got=listed(unknown),
                expected=f"some of {listed(NAMES, len(NAMES))}",
                remedy=did_you_mean(unknown[0], NAMES) or "correct its name",
            )
        self.replaced = {name: value for name, value in settings.items() if value is not None}

    def settings(self, cfg: Any) -> TrainingSettings:
        """Return the settings for a configuration.

        Raises:
            ConfigError: a value of the configuration is not supported.
        """
        return TrainingSettings(**{**settings_of(cfg), **self.replaced})


def not_honoured(cfg: Any) -> dict[str, Any]:
    """Return the keys of a training that have no effect, and differ from their default, with their values."""
    defaults = get_cfg()
    return {key: cfg.value_of(key) for key in NOT_HONOURED if cfg.value_of(key) != defaults.value_of(key)}


def settings_of(cfg: Any) -> dict[str, Any]:
    """Return the settings that a configuration describes, by name.

    The precision of ``SOLVER.AMP`` is float16 on a GPU and bfloat16 on a CPU. A negative ``SEED`` is 0.

    Raises:
        ConfigError: a value is not supported.
    """
    node, on_cpu = cfg.SOLVER, cfg.MODEL.DEVICE == "cpu"
    return {
        "iterations": node.MAX_ITER,
        "batch_size": node.IMS_PER_BATCH,
        "learning_rate": node.BASE_LR,
        "warmup_iterations": node.WARMUP_ITERS,
        "weight_decay": node.WEIGHT_DECAY,
        "average_decay": None,
        "flip": cfg.INPUT.RANDOM_FLIP == "horizontal",
        "seed": max(0, cfg.SEED),
        "threads": 2,
        "optimizer": "sgd",
        "momentum": node.MOMENTUM,
        "nesterov": node.NESTEROV,
        "weight_decay_norm": node.WEIGHT_DECAY_NORM,
        "weight_decay_bias": node.WEIGHT_DECAY_BIAS,
        "weight_decay_vector": None,
        "bias_factor": node.BIAS_LR_FACTOR,
        "schedule": node.LR_SCHEDULER_NAME,
        "steps": tuple(node.STEPS),
        "gamma": node.GAMMA,
        "warmup_factor": node.WARMUP_FACTOR,
        "warmup_method": node.WARMUP_METHOD,
        "final_factor": node.BASE_LR_END / node.BASE_LR,
        **_clipping(node.CLIP_GRADIENTS),
        "precision": ("bf16-mixed" if on_cpu else "16-mixed") if node.AMP.ENABLED else "32-true",
        "augmentations": tuple(_augmentations(cfg.INPUT)),
        "by_orientation": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "workers": cfg.DATALOADER.NUM_WORKERS,
        "checkpoint_period": node.CHECKPOINT_PERIOD,
        "evaluation_period": cfg.TEST.EVAL_PERIOD,
        "accelerator": "cpu" if on_cpu else "auto",
    }


def _clipping(node: Any) -> Mapping[str, Any]:
    limits = {"value": "gradient_value", "norm": "parameter_norm", "full_model": "gradient_norm"}
    if not node.ENABLED:
        return {"gradient_norm": None}
    check_clip_type(node.CLIP_TYPE)
    return {"gradient_norm": None, limits[node.CLIP_TYPE]: node.CLIP_VALUE, "norm_type": node.NORM_TYPE}


def _augmentations(node: Any) -> list[Any]:
    """Return the crop, the resize and a vertical flip of ``INPUT``."""
    if node.RANDOM_FLIP not in FLIPS:
        raise ConfigError(
            "unknown flip",
            got=f"INPUT.RANDOM_FLIP: {node.RANDOM_FLIP}",
            expected=" or ".join(FLIPS),
            remedy="correct INPUT.RANDOM_FLIP",
        )
    transforms: list[Any] = [Crop(node.CROP.TYPE, node.CROP.SIZE)] if node.CROP.ENABLED else []
    if any(node.MIN_SIZE_TRAIN):
        transforms.append(
            ShortestEdge(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING)
        )
    return [*transforms, *([v2.RandomVerticalFlip()] if node.RANDOM_FLIP == "vertical" else [])]
