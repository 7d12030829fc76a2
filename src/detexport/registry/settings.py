"""Settings of the registry: the ``registry`` section of a project's ``params.yaml``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from detexport.conf_files import merged, read_defaults
from detexport.errors import ConfigError
from detexport.parity.settings import ParitySettings, default_settings
from detexport.system.params_file import decode_section, read_section

SECTION = "registry"
SHOWN_IN = "conf/registry/mlflow.yaml"
Release = Literal["auto", True, False]


@dataclass(frozen=True)
class GateLimits:
    """How much worse than the champion a version may be.

    Args:
        latency_increase: largest increase of the p50 latency, as a fraction of the champion's.
        ap_decrease: largest decrease of a task metric (AP, AR, PQ, mIoU).
        same_machine: refuse a version that was measured on another kind of machine than the champion; if
            False, its latency is not compared.
    """

    latency_increase: float
    ap_decrease: float
    same_machine: bool

    def __post_init__(self) -> None:
        for name in ("latency_increase", "ap_decrease"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} is negative",
                    got=getattr(self, name),
                    expected="a number of at least 0",
                    remedy="correct it; 0 allows no decrease and no increase",
                )


@dataclass(frozen=True)
class RegistrySettings:
    """Where and what to register; ``conf/registry/mlflow.yaml`` has the defaults.

    Args:
        tracking_uri: MLflow's tracking URI; None selects the workspace's own store.
        experiment: name of the MLflow experiment of releases.
        release: whether a job that passed is registered as a version. ``"auto"``: unless its validation plan
            is weaker than ``plan``, or DVC runs the pipeline as an experiment.
        gate: the limits of a promotion.
        plan: the weakest validation plan of a release.
    """

    tracking_uri: str | None
    experiment: str
    release: Release
    gate: GateLimits
    plan: ParitySettings = field(default_factory=default_settings)

    @property
    def experiments(self) -> str:
        """Name of the MLflow experiment of what is not a release."""
        return f"{self.experiment}-experiments"

    @property
    def promotions(self) -> str:
        """Name of the MLflow experiment of the decisions about ``champion``."""
        return f"{self.experiment}-promotions"

    @classmethod
    def of(cls, section: Mapping[str, Any], source: str = "params.yaml") -> "RegistrySettings":
        """Build the settings from a section; missing keys have their defaults.

        Raises:
            ConfigError: a key is unknown, or a value is invalid.
        """
        values = merged(read_defaults("registry/mlflow"), section)
        # A key that the section's plan lacks has the value of conf/parity/default.yaml.
        del values["plan"]
        plan = ParitySettings.of(section.get("plan", {}), f"{source} (as {SECTION}.plan)")
        settings: RegistrySettings = decode_section(values, cls, SECTION, source=source, like=SHOWN_IN)
        return replace(settings, plan=plan)


def weaker_plan(weaknesses: Sequence[str]) -> str:
    """Return the reason that a validation plan is weaker than ``registry.plan``."""
    return f"the validation plan is weaker than registry.plan: {'; '.join(weaknesses)}"


def read_registry_settings(path: Path) -> RegistrySettings:
    """Read the section ``registry`` of a project's parameters; without the file all values are the defaults.

    Raises:
        ConfigError: the file has no such section, or it cannot be used.
    """
    if not path.exists():
        return RegistrySettings.of({})
    remedy = "run the command in the project's folder, or in one without params.yaml"
    section = read_section(path, SECTION, like=SHOWN_IN, remedy=remedy)
    return RegistrySettings.of(section, path.name)
