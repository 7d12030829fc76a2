"""Settings of the parity check: the ``parity`` section of a project's ``params.yaml``."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from detexport.conf_files import merged, read_defaults
from detexport.errors import ConfigError, shown
from detexport.parity.accuracy import FLOAT32
from detexport.parity.compare import Tolerance
from detexport.reference.input_kinds import Plan
from detexport.system.params_file import read_section

SECTION = "parity"
MANY = 1_000_000
"""Upper limit of the numbers of images and runs."""
RANGES = {
    "images": (1, MANY),
    "scales": (0.01, 100.0),
    "noise_floor_images": (1, MANY),
    "min_detections": (0, MANY),
    "draw": (0, MANY),
    "accuracy_images": (0, MANY),
    "min_accuracy": (0.0, 1.0),
    "budgets": (0.0, 1.0),
    "inputs.mosaics": (0, MANY),
    "inputs.mosaic_area": (0.01, 100.0),
    "inputs.one_runs": (0, MANY),
    "inputs.threshold_runs": (0, MANY),
    "inputs.threshold_distance": (0.0, 1.0),
    "inputs.offset": (0.0, 1.0),
}
"""Smallest and largest value of a key, of each item of a list, of each value of a mapping.

``Tolerance`` checks its own limits."""


@dataclass(frozen=True)
class ParitySettings:
    """Inputs, tolerance and budgets; ``conf/parity/default.yaml`` has the defaults.

    Args:
        tolerance: see ``Tolerance``.
        images: number of images of the data set in a reference.
        scales: see ``Plan``.
        inputs: the other numbers of ``Plan``.
        noise_floor_images: samples of the reference that the variants of the noise floor are run on.
        min_detections: a reference with fewer detections fails.
        draw: number of images of which the artifact's outputs are kept for drawing.
        accuracy_images: annotated images that the task metric is measured on; 0: not measured.
        accuracy_precisions: precisions whose task metric is measured.
        budgets: largest difference of a task metric from the eager model's, by precision.
        min_accuracy: a lower eager metric is too low to compare with.
    """

    tolerance: Tolerance
    images: int
    scales: tuple[float, ...]
    inputs: dict[str, float]
    noise_floor_images: int
    min_detections: int
    draw: int
    accuracy_images: int
    accuracy_precisions: tuple[str, ...]
    budgets: dict[str, float]
    min_accuracy: float

    @property
    def plan(self) -> Plan:
        """Return the plan of the reference's inputs."""
        return Plan(scales=self.scales, **self.inputs)  # type: ignore[arg-type]

    def with_images(
        self, images: int | None, accuracy_images: int | None, precision: str
    ) -> "ParitySettings":
        """Return settings with the given numbers of images, for a target of a precision.

        A float32 target that ``accuracy_precisions`` does not list is evaluated only if ``accuracy_images``
        is given. A target of reduced precision always is, since nothing else decides.
        """
        settings = self if images is None else replace(self, images=images)
        is_listed = precision in self.accuracy_precisions
        if accuracy_images is not None:
            added = () if is_listed else (precision,)
            precisions = (*self.accuracy_precisions, *added)
            return replace(settings, accuracy_images=accuracy_images, accuracy_precisions=precisions)
        return settings if is_listed or precision != FLOAT32 else replace(settings, accuracy_images=0)

    @classmethod
    def of(cls, section: Mapping[str, Any], source: str = "params.yaml") -> "ParitySettings":
        """Build the settings from a section; missing keys have their defaults.

        Args:
            section: keys as in ``conf/parity/default.yaml``; ``_target_`` keys are Hydra's and left out.
            source: the file, for messages.

        Raises:
            ConfigError: a key is unknown, or a value is invalid; one message lists all.
        """
        plain = merged(read_defaults("parity/default"), section)
        faults: list[str] = []
        values = _checked(plain, get_type_hints(cls), "", faults)
        for name, kinds in _nested_kinds().items():
            if not isinstance(plain[name], Mapping):
                faults.append(f"{name}: {shown(plain[name])} is not a mapping")
                continue
            values[name] = _checked(
                plain[name], kinds or dict.fromkeys(plain[name], float), f"{name}.", faults
            )
        if not faults:
            unknown = [one for one in values["accuracy_precisions"] if one not in values["budgets"]]
            faults += [f"accuracy_precisions: {shown(one)} has no budget" for one in unknown]
        if faults:
            raise ConfigError(
                f"the section {SECTION} of {source} cannot be used",
                got="; ".join(faults),
                expected=f"keys and values as in conf/parity/default.yaml: {', '.join(get_type_hints(cls))}",
                remedy="correct them",
            )
        values["tolerance"] = Tolerance(**values["tolerance"])
        return cls(**values)


@cache
def default_settings() -> ParitySettings:
    """Return the settings of ``conf/parity/default.yaml``."""
    return ParitySettings.of({})


def stored_tolerance(limits: Mapping[str, float]) -> Tolerance:
    """Return the limits of a stored verdict; those that an older version did not write have the defaults."""
    return replace(default_settings().tolerance, **limits)


def read_parity_settings(path: Path) -> ParitySettings:
    """Read the ``parity`` section of a project's parameters.

    Raises:
        ConfigError: there is no such file or section, or it cannot be used.
    """
    remedy = "give --params the project's params.yaml"
    section = read_section(path, SECTION, like="conf/parity/default.yaml", remedy=remedy)
    return ParitySettings.of(section, str(path))


def _nested_kinds() -> dict[str, dict[str, Any]]:
    """Return the types of the values in each mapping of the section; none: they are numbers by any name."""
    plan = {name: kind for name, kind in get_type_hints(Plan).items() if name not in ("scales", "kinds")}
    return {"tolerance": get_type_hints(Tolerance), "inputs": plan, "budgets": {}}


def _checked(
    given: Mapping[Any, Any], known: Mapping[str, Any], prefix: str, faults: list[str]
) -> dict[str, Any]:
    """Return the values of known keys, with their types; add the others to ``faults``."""
    values = {}
    for name, value in given.items():
        if str(name).startswith("_"):  # Hydra's
            continue
        if name not in known:
            faults.append(f"{prefix}{name}: no such key")
        elif known[name] is Tolerance or get_origin(known[name]) is dict:
            continue
        elif (valid := _as(known[name], value, _range(prefix + name))) is None:
            faults.append(
                f"{prefix}{name}: {shown(value)}, expected {_words(known[name], _range(prefix + name))}"
            )
        else:
            values[name] = valid
    return values


def _range(name: str) -> tuple[float, float]:
    return RANGES.get(name) or RANGES.get(name.partition(".")[0], (0.0, math.inf))


def _as(kind: Any, value: Any, limits: tuple[float, float]) -> Any:
    """Return a value in a type, or None if it has another type or is out of range."""
    if get_origin(kind) is tuple:
        items = list(value) if isinstance(value, list | tuple) else []
        checked = tuple(_as(get_args(kind)[0], item, limits) for item in items)
        return checked if checked and None not in checked else None
    if kind is str:
        return value if isinstance(value, str) else None
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return None
    # An integer beyond what a float holds is compared, not converted.
    if not (limits[0] <= value <= limits[1]) or abs(value) >= sys.float_info.max:
        return None
    return value if kind is int else float(value)


def _words(kind: Any, limits: tuple[float, float]) -> str:
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0], limits)}"
    if kind is str:
        return "a name"
    low, high = limits
    number = "a whole number" if kind is int else "a number"
    return f"{number} of at least {low:g}" if high == math.inf else f"{number} from {low:g} to {high:.7g}"
