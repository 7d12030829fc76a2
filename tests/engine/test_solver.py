"""A configuration of detectron2 describes a training."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from detexport.config import get_cfg
from detexport.data.augmentation import Crop, ShortestEdge
from detexport.engine.solver import HONOURED, NOT_HONOURED, Solver, not_honoured
from detexport.errors import ConfigError

ROOT = Path(__file__).parents[2]
TRAINING = ("SOLVER.", "INPUT.", "DATALOADER.", "SEED")


def settings(*keys: Any, **replaced: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(list(keys))
    return Solver(**replaced).settings(cfg)


def leaves(node: Any, prefix: str = "") -> list[str]:
    return [
        name
        for key, value in node.items()
        for name in (leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else [f"{prefix}{key}"])
    ]


def test_every_key_of_a_training_is_honoured_or_named() -> None:
    keys = {key for key in leaves(get_cfg()) if key.startswith(TRAINING)}
    assert keys <= {*HONOURED, *NOT_HONOURED}
    assert not {*HONOURED} & {*NOT_HONOURED}


def test_the_documentation_lists_them() -> None:
    page = (ROOT / "docs/training.md").read_text()
    for key in (*HONOURED, *NOT_HONOURED):
        assert f"`{key}`" in page, key


def test_the_default_configuration() -> None:
    found = settings()
    assert (found.optimizer, found.momentum, found.learning_rate) == ("sgd", 0.9, 0.001)
    assert (found.iterations, found.batch_size, found.warmup_iterations) == (40_000, 16, 1000)
    assert (found.schedule, found.steps, found.gamma) == ("WarmupMultiStepLR", (30_000,), 0.1)
    assert (found.weight_decay, found.weight_decay_norm, found.weight_decay_bias) == (1e-4, 0.0, None)
    assert (found.gradient_norm, found.average_decay, found.precision) == (None, None, "32-true")
    assert (found.flip, found.by_orientation, found.accelerator, found.seed) == (True, True, "auto", 0)
    (resize,) = found.augmentations
    assert isinstance(resize, ShortestEdge)
    assert (resize.sizes, resize.max_size, resize.sampling) == ((800,), 1333, "choice")


def test_other_values() -> None:
    found = settings(
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0),
        *("SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", "cpu", "SEED", 7),
        *("INPUT.CROP.ENABLED", True, "INPUT.RANDOM_FLIP", "vertical", "INPUT.MIN_SIZE_TRAIN", [0]),
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.0001),
        *("SOLVER.WEIGHT_DECAY_BIAS", 0.0, "TEST.EVAL_PERIOD", 500),
    )
    assert (found.parameter_norm, found.gradient_value, found.norm_type) == (0.5, None, 1.0)
    assert (found.precision, found.accelerator, found.seed, found.flip) == ("bf16-mixed", "cpu", 7, False)
    assert (found.schedule, found.final_factor) == ("WarmupCosineLR", pytest.approx(0.1))
    assert (found.weight_decay_bias, found.evaluation_period) == (0.0, 500)
    assert isinstance(found.augmentations[0], Crop)
    assert [type(one).__name__ for one in found.augmentations] == ["Crop", "RandomVerticalFlip"]
    assert settings("SOLVER.AMP.ENABLED", True).precision == "16-mixed"
    by_value = settings("SOLVER.CLIP_GRADIENTS.ENABLED", True)
    assert (by_value.gradient_value, by_value.parameter_norm) == (1.0, None)


def test_settings_replace_those_of_the_configuration() -> None:
    found = settings("SOLVER.MAX_ITER", 10, iterations=5, batch_size=None, patience=2, evaluation_period=1)
    assert (found.iterations, found.batch_size, found.patience) == (5, 16, 2)
    with pytest.raises(ConfigError, match="did you mean 'iterations'"):
        Solver(iteration=5)


@pytest.mark.parametrize("name", ["mine", "torchvision"])
def test_a_fine_tuned_model_has_a_checkpoint_every_few_steps(name: str) -> None:
    options = yaml.safe_load((ROOT / f"conf/model/{name}.yaml").read_text())["training"]
    given = {key: value for key, value in options.items() if key not in ("_target_", "from")}
    found = settings("SOLVER.CHECKPOINT_PERIOD", 5000, **given)
    assert (found.checkpoint_period, found.threads) == (200, 2)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"), "WarmupStepWithFixedGammaLR"),
        (("INPUT.RANDOM_FLIP", "diagonal"), "got: INPUT.RANDOM_FLIP: diagonal"),
        (("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"), "do not fit their sampling"),
        (
            ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"),
            "expected: value or norm or full_model",
        ),
    ],
)
def test_values_that_are_not_supported(keys: tuple[Any, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(*keys)


def test_keys_without_effect_are_named_if_they_are_set() -> None:
    cfg = get_cfg()
    assert not_honoured(cfg) == {}
    cfg.merge_from_list(["INPUT.COLOR_AUG_SSD", True, "DATALOADER.REPEAT_THRESHOLD", 0.1])
    assert not_honoured(cfg) == {"DATALOADER.REPEAT_THRESHOLD": 0.1, "INPUT.COLOR_AUG_SSD": True}
