"""Checks before an export begins; free of torch, so that a mistake is reported at once."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detexport.artifact import MANIFEST
from detexport.errors import ConfigError
from detexport.system.atomic import replaceable
from detexport.targets.table import find_target


def check_inputs(
    target: str,
    *,
    images: Sequence[Any],
    calibration: Sequence[Any],
    data: Path | None,
    check: bool,
    evaluate: bool = False,
) -> None:
    """Check that an export has the images and annotations that its target needs.

    Args:
        target: name of the target.
        images: given images; not the bundled one.
        calibration: given calibration images.
        data: the data set.
        check: whether the artifact is checked against the model.
        evaluate: whether the task metric is measured, too.

    Raises:
        ConfigError: there is no such target, or data or images are missing.
    """
    precision = find_target(target).precision
    by_ap = bool(precision) and check
    if (evaluate or by_ap) and data is None:
        raise ConfigError(
            f"{target} is checked by its task metrics on annotated images"
            if by_ap
            else "--run-eval needs data",
            got="no --data",
            expected="a folder with images/val and annotations/instances_val.json",
            remedy="give --data DIR (in Python: data=...)"
            + (", or export without the check: --no-check (check=False)" if by_ap else ""),
        )
    if precision == "int8" and not (calibration or images or data):
        raise ConfigError(
            f"{target} needs calibration images",
            got="none",
            expected="some dozens of images like those that the model will see",
            remedy="give --calibration DIR, --sample, or --data with a training split "
            "(in Python: calibration=..., sample=..., data=...)",
        )


def check_output(output: Path) -> None:
    """Check that a path is new, an empty folder, or an artifact to replace.

    Raises:
        ConfigError: it is a file, or a folder with other content.
        OutputError: it is a folder that cannot be replaced.
    """
    folder = os.path.isdir(output)
    if os.path.lexists(output) and not (
        os.path.isfile(output / MANIFEST) or (folder and not os.listdir(output))
    ):
        raise ConfigError(
            f"{output} exists and is not an artifact",
            got=f"a folder with {min(os.listdir(output))}" if folder else "a file",
            expected="a new or empty folder, or an artifact to replace",
            remedy="choose another --output (in Python: output=...)",
        )
    replaceable(output)
