"""What a project asks of its artifacts: the ``parity`` section of its ``params.yaml``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from detexport.errors import ConfigError, listed, shown
from detexport.parity.accuracy import BUDGETS, FLOAT32, MIN_ACCURACY
from detexport.parity.compare import Tolerance
from detexport.reference.plan import Plan

SECTION = "parity"


@dataclass(frozen=True)
class ParitySettings:
    """Inputs, limits and budgets; the defaults are those of ``conf/parity/default.yaml``.

    Args:
        tolerance: see ``Tolerance``.
        images: of the data set, for a reference.
        scales: see ``Plan``.
        inputs: the plan's other numbers.
        noise_floor_images: samples of the reference that all variants of the noise floor are run on.
        min_detections: a reference with fewer detections proves nothing.
        draw: images of which the artifact's outputs are kept for pictures.
        accuracy_images: annotated images that the task metric is measured on; 0: not measured.
        accuracy_precisions: precisions whose task metric is measured.
        budgets: how far a task metric may lie from the eager model's, by precision.
        min_accuracy: an eager metric below this proves nothing.
    """

    tolerance: Tolerance = field(default_factory=Tolerance)
    images: int = 8
    scales: tuple[float, ...] = (1.0, 0.75, 1.5)
    inputs: dict[str, float] = field(default_factory=dict)
    noise_floor_images: int = 12
    min_detections: int = 1
    draw: int = 3
    accuracy_images: int = 100
    accuracy_precisions: tuple[str, ...] = (FLOAT32, "bf16", "int8")
    budgets: dict[str, float] = field(default_factory=lambda: dict(BUDGETS))
    min_accuracy: float = MIN_ACCURACY

    @property
    def plan(self) -> Plan:
        """How much is asked of the eager model."""
        return replace(Plan(), scales=self.scales, **self.inputs)  # type: ignore[arg-type]

    @classmethod
    def of(cls, section: Mapping[str, Any], source: str = "params.yaml") -> "ParitySettings":
        """The settings that a section states; what it leaves out is as by default.

        Args:
            section: keys as in ``conf/parity/default.yaml``; ``_target_`` keys are Hydra's and left out.
            source: the file, for messages.

        Raises:
            ConfigError: a key is unknown, or a value is not what it can be; all of them in one message.
        """
        default = cls()
        plain = {name: value for name, value in section.items() if not name.startswith("_")}
        faults: list[str] = []
        values = _checked(plain, {one.name: getattr(default, one.name) for one in fields(cls)}, "", faults)
        limits = {one.name: getattr(default.tolerance, one.name) for one in fields(Tolerance)}
        plan = {one.name: getattr(Plan(), one.name) for one in fields(Plan)}
        plan = {name: value for name, value in plan.items() if name not in ("scales", "kinds")}
        nested = {"tolerance": limits, "inputs": plan, "budgets": None}
        for name, known in nested.items():
            given = plain.get(name, {})
            if not isinstance(given, Mapping):
                faults.append(f"{name}: {shown(given)} is not a mapping")
                continue
            given = {key: value for key, value in given.items() if not str(key).startswith("_")}
            checked = _checked(given, known or dict.fromkeys(given, 0.0), f"{name}.", faults)
            values[name] = {**default.budgets, **checked} if name == "budgets" else checked
        if faults:
            raise ConfigError(
                f"the section {SECTION} of {source} cannot be used",
                got="; ".join(faults),
                expected=f"keys and values as in conf/parity/default.yaml: {', '.join(values)}",
                remedy="correct them",
            )
        values["tolerance"] = Tolerance(**values["tolerance"])
        return cls(**values)


def read_parity_settings(path: Path) -> ParitySettings:
    """Read the ``parity`` section of a project's parameters.

    Raises:
        ConfigError: there is no such file or section, or it cannot be used.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device would be read without end
            raise OSError("it is not a regular file")
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: bytes that are no text, numbers of too many digits, dates that are none.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected=f"a YAML file with a section {SECTION}",
            remedy="give --params the project's params.yaml",
        ) from error
    section = params.get(SECTION) if isinstance(params, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(
            f"{path} has no section {SECTION}",
            got=listed(params) if isinstance(params, dict) else type(params).__name__,
            expected=f"a mapping {SECTION}, as in conf/parity/default.yaml",
            remedy="give --params the project's params.yaml",
        )
    return ParitySettings.of(section, str(path))


def _checked(
    given: Mapping[Any, Any], known: Mapping[str, Any], prefix: str, faults: list[str]
) -> dict[str, Any]:
    """The values of known keys, of their defaults' types; what does not fit is added to ``faults``."""
    values = {}
    for name, value in given.items():
        if name not in known:
            faults.append(f"{prefix}{name}: no such key")
        elif isinstance(known[name], Tolerance | dict):
            values[name] = value
        elif (fitting := _as(known[name], value)) is None:
            faults.append(f"{prefix}{name}: {shown(value)}, expected {_words(known[name])}")
        else:
            values[name] = fitting
    return values


def _as(default: Any, value: Any) -> Any:
    """A value of its default's type, none where it is of another."""
    if isinstance(default, tuple):
        items = list(value) if isinstance(value, list | tuple) else []
        checked = tuple(_as(default[0], item) for item in items)
        return checked if checked and None not in checked else None
    if isinstance(default, str):
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    if isinstance(default, int):
        return value if isinstance(value, int) else None
    return float(value)


def _words(default: Any) -> str:
    if isinstance(default, tuple):
        return f"a list, each {_words(default[0])}"
    kinds = {int: "a whole number of at least 0", float: "a number of at least 0", str: "a name"}
    return kinds[type(default)]
