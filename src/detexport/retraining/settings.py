"""Settings of retraining runs: the section ``retraining`` of a project's ``params.yaml``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detexport.conf_files import merged, read_defaults
from detexport.errors import ConfigError
from detexport.system.params_file import decode_section, read_section

SECTION = "retraining"
SHOWN_IN = "conf/retraining/default.yaml"


@dataclass(frozen=True)
class DataLimits:
    """How much the data may differ from the champion's.

    Args:
        image_decrease: largest decrease of the number of images of a split, as a fraction of the champion's.
        label_decrease: the same of all labels of a split.
        class_decrease: the same of the labels of each class.
        unlabelled_increase: largest increase of the share of images without a label.
        label_shift: largest total variation distance between the shares of the classes in a split's labels.
        boxes_outside: largest share of a split's boxes that exceed their image.
    """

    image_decrease: float
    label_decrease: float
    class_decrease: float
    unlabelled_increase: float
    label_shift: float
    boxes_outside: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(
                    f"{SECTION}.data.{name} is out of range",
                    got=value,
                    expected="a share from 0 to 1",
                    remedy="correct it; 1 allows any",
                )


@dataclass(frozen=True)
class RetrainingSettings:
    """Settings of a retraining run; ``conf/retraining/default.yaml`` has the defaults.

    Args:
        data: limits of the data checks.
    """

    data: DataLimits

    @classmethod
    def of(cls, section: Mapping[str, Any], source: str = "params.yaml") -> "RetrainingSettings":
        """Build the settings from a section; missing keys have their defaults.

        Raises:
            ConfigError: a key is unknown, or a value is invalid.
        """
        values = merged(read_defaults("retraining/default"), section)
        settings: RetrainingSettings = decode_section(values, cls, SECTION, source=source, like=SHOWN_IN)
        return settings


def read_retraining_settings(path: Path) -> RetrainingSettings:
    """Read the section ``retraining`` of a project's parameters.

    Raises:
        ConfigError: there is no such file or section, or it cannot be used.
    """
    remedy = f"add {SHOWN_IN} to the defaults of conf/config.yaml, and run `make params`"
    return RetrainingSettings.of(read_section(path, SECTION, like=SHOWN_IN, remedy=remedy), path.name)
