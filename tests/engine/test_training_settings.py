"""Settings out of their range are refused by name."""

from typing import Any

import pytest
from torchvision.transforms import v2

from detexport.engine.training_settings import TrainingSettings
from detexport.errors import ConfigError
from trainings import TINY


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"iterations": 0}, "got: iterations: 0; expected: at least 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"optimizer": "adam"}, "expected: adamw or sgd"),
        ({"schedule": "OneCycle"}, "expected: cosine or WarmupMultiStepLR or WarmupCosineLR"),
        ({"precision": "16"}, "expected: 32-true or 16-mixed or bf16-mixed"),
        ({"gradient_value": 1.0}, "one limit of the gradient"),
        ({"strategy": "fsdp"}, "auto, ddp or a variant of it"),
        ({"patience": 3}, "got: evaluation_period: 0; expected: at least 1, since patience is set"),
        ({"patience": 0, "evaluation_period": 5}, "got: patience: 0"),
    ],
)
def test_a_value_out_of_its_range(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        TrainingSettings(**{**TINY, **changes})


def test_what_determines_the_result() -> None:
    settings = TrainingSettings(**TINY)
    same = TrainingSettings(**TINY | {"workers": 3, "checkpoint_period": 7, "log_period": 5})
    assert settings.of_result() == same.of_result()
    for changes in ({"learning_rate": 0.1}, {"devices": 2}, {"augmentations": [v2.RandomInvert()]}):
        assert TrainingSettings(**TINY | changes).of_result() != settings.of_result()
