"""Settings of a training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from detexport.errors import ConfigError

SCHEDULES = ("cosine", "WarmupMultiStepLR", "WarmupCosineLR")
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclass(frozen=True)
class TrainingSettings:
    """Parameters of a training.

    Args:
        iterations: number of optimizer steps.
        batch_size: images per step, of all devices together.
        learning_rate: peak of the schedule.
        warmup_iterations: steps of the warm-up.
        weight_decay: of all weights but normalization and biases.
        gradient_norm: upper limit of the norm of the whole gradient; None does not limit it.
        average_decay: decay of the moving average of the weights, which is the result; None: the result is
            the weights of the last step.
        flip: flip images horizontally with probability 0.5.
        seed: of the initial weights, the order of the images and the sampling of boxes.
        threads: number of CPU threads.
        optimizer: ``"adamw"`` or ``"sgd"``.
        momentum: of SGD.
        nesterov: whether SGD uses Nesterov's momentum.
        weight_decay_norm: of the parameters of normalization.
        weight_decay_bias: of biases, those of normalization too; None: as other parameters of the module.
        weight_decay_vector: of vectors that are neither; None: ``weight_decay``.
        bias_factor: factor on the learning rate of biases, those of normalization too.
        schedule: ``"cosine"``: linear warm-up, then a cosine down to 0; or the name of one of detectron2's:
            ``"WarmupMultiStepLR"`` or ``"WarmupCosineLR"``.
        steps: iterations at which ``WarmupMultiStepLR`` multiplies the learning rate by ``gamma``.
        gamma: see ``steps``.
        warmup_factor: with detectron2's schedules, the first learning rate as a fraction of the peak.
        warmup_method: with detectron2's schedules, ``"linear"`` or ``"constant"``.
        final_factor: last learning rate of ``WarmupCosineLR`` as a fraction of the peak.
        gradient_value: upper limit of each element of the gradient.
        parameter_norm: upper limit of the norm of the gradient of each parameter.
        norm_type: p of the norms.
        precision: Lightning's name: ``"32-true"``, ``"16-mixed"`` or ``"bf16-mixed"``.
        augmentations: transforms of ``torchvision.transforms.v2`` or ``detexport.data.augmentation``, in
            order, after the flip.
        by_orientation: whether all images of a batch are landscape, or all portrait.
        workers: number of processes that read images, per device; 0: the training's own.
        checkpoint_period: steps between checkpoints.
        evaluation_period: steps between evaluations; 0 evaluates the result alone.
        patience: number of evaluations without a new best one after which the training ends; the result is
            then the best. None does not end it early.
        log_period: steps between logged losses.
        accelerator: Lightning's: ``"cpu"``, ``"cuda"``, ``"auto"``, ...
        devices: Lightning's: the number of devices per node.
        num_nodes: number of machines.
        strategy: Lightning's: ``"auto"``, ``"ddp"`` or one of its variants.

    Raises:
        ConfigError: a value is out of its range.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    warmup_iterations: int
    weight_decay: float
    gradient_norm: float | None
    average_decay: float | None
    flip: bool
    seed: int
    threads: int
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay_norm: float = 0.0
    weight_decay_bias: float | None = 0.0
    weight_decay_vector: float | None = 0.0
    bias_factor: float = 1.0
    schedule: Literal["cosine", "WarmupMultiStepLR", "WarmupCosineLR"] = "cosine"
    steps: Sequence[int] = ()
    gamma: float = 0.1
    warmup_factor: float = 0.001
    warmup_method: Literal["linear", "constant"] = "linear"
    final_factor: float = 0.0
    gradient_value: float | None = None
    parameter_norm: float | None = None
    norm_type: float = 2.0
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    augmentations: Sequence[Any] = ()
    by_orientation: bool = False
    workers: int = 0
    checkpoint_period: int = 200
    evaluation_period: int = 0
    patience: int | None = None
    log_period: int = 20
    accelerator: str = "cpu"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "threads", "checkpoint_period", "log_period", "num_nodes"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_iterations", "workers", "evaluation_period"):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        self._check("learning_rate", self.learning_rate > 0, "more than 0")
        self._check("optimizer", self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS))
        self._check("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        self._check("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))
        self._check("warmup_method", self.warmup_method in ("linear", "constant"), "linear or constant")
        limits = (self.gradient_norm, self.gradient_value, self.parameter_norm)
        self._check("gradient_norm", sum(one is not None for one in limits) <= 1, "one limit of the gradient")
        self._check("strategy", self.strategy.startswith(("auto", "ddp")), "auto, ddp or a variant of it")
        if self.patience is not None:
            self._check("patience", self.patience >= 1, "at least 1")
            self._check("evaluation_period", self.evaluation_period >= 1, "at least 1, since patience is set")

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise ConfigError(
                f"{name} of the training is not valid",
                got=f"{name}: {getattr(self, name)}",
                expected=expected,
                remedy=f"correct {name}",
            )

    def of_result(self) -> dict[str, Any]:
        """Return the settings that determine the result, as plain values."""
        values = asdict(self) | {"augmentations": [str(one) for one in self.augmentations]}
        return {name: value for name, value in values.items() if name not in WITHOUT_EFFECT}


WITHOUT_EFFECT = ("workers", "checkpoint_period", "log_period")
"""Settings that do not change the result."""
NAMES = tuple(field.name for field in fields(TrainingSettings))
