"""The targets: which export method or conversion makes each artifact, and which runtime runs it.

The files of ``conf/export`` define them. Classes are given by their dotted path, so that a package is
imported only for a target that needs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from detexport.conf_files import read_targets
from detexport.errors import ConfigError, did_you_mean
from detexport.system.extras import require_packages
from detexport.targets.component import Component, DeclaredOption, written_value


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made.

    Args:
        maker: an export method or a conversion.
        source: name of the artifact that the conversion converts; empty for an export method.
    """

    maker: Component
    source: str = ""


@dataclass(frozen=True)
class Target:
    """An artifact with the runtime that runs it.

    Args:
        artifact: name in ``artifacts()``.
        runtime: the engine, with its options.
        precision: the inference precision if it is below float32, else empty. A target of reduced precision
            is evaluated by its AP, not by numerical error.
    """

    artifact: str
    runtime: Component
    precision: str = ""


MODEL = ("torch", "torchvision")
"""Packages that run a model."""


@cache
def artifacts() -> Mapping[str, Recipe]:
    """Return all artifacts by name."""
    return {
        name: Recipe(Component.of(given["conversion"]), given["source"])
        if "source" in given
        else Recipe(Component.of(given["method"]))
        for name, given in read_targets()["artifacts"].items()
    }


@cache
def targets() -> Mapping[str, Target]:
    """Return all targets by name."""
    return {
        name: Target(given["artifact"], Component.of(given["runtime"]), given.get("precision", ""))
        for name, given in read_targets()["targets"].items()
    }


def find_target(name: str) -> Target:
    """Return the target with a name.

    Raises:
        ConfigError: the name is unknown.
    """
    known = targets()
    if name not in known:
        raise ConfigError(
            "unknown target",
            got=repr(name),
            expected=f"one of {', '.join(known)}",
            remedy=did_you_mean(name, known) or "choose one",
        )
    return known[name]


def require_target_packages(target: Target) -> None:
    """Check that the packages that export and run a target are installed, without importing them.

    Raises:
        MissingPackageError: some are not; the message lists them.
    """
    steps = [artifacts()[name].maker for name in artifact_chain(target.artifact)]
    needed = [package for component in (*steps, target.runtime) for package in component.packages]
    require_packages(*dict.fromkeys((*MODEL, *needed)))


def artifact_chain(name: str) -> list[str]:
    """Return the names of an artifact and of those that it is made from, in the order of making."""
    chain = [name]
    while source := artifacts()[chain[0]].source:
        chain.insert(0, source)
    return chain


def build_steps(artifact: str, options: list[str]) -> dict[str, Any]:
    """Build the export method and conversions of an artifact's chain, by the name of the artifact each makes.

    Args:
        artifact: name of the artifact.
        options: see ``parse_options``.

    Raises:
        ConfigError: see ``parse_options``.
    """
    parsed = parse_options(artifact, options)
    return {name: artifacts()[name].maker.build(**given) for name, given in parsed.items()}


def parse_options(artifact: str, options: list[str]) -> dict[str, dict[str, Any]]:
    """Parse the options of an artifact's chain, by the name of the artifact each step makes, without imports.

    Args:
        artifact: name of the artifact.
        options: ``"name=value"``, for the one step of the chain that has the option, or
            ``"artifact.name=value"``; values are YAML.

    Raises:
        ConfigError: an option has another form, no step or several steps have it, or its value is invalid.
    """
    declared = {name: artifacts()[name].maker.declared_options() for name in artifact_chain(artifact)}
    parsed: dict[str, dict[str, Any]] = {name: {} for name in declared}
    for option in options:
        key, equals, text = option.partition("=")
        owner, _, name = key.rpartition(".")
        takers = [one for one in declared if owner in ("", one) and name in declared[one]]
        if not equals or len(takers) != 1:
            raise _unknown_option(option, artifact, declared)
        parsed[takers[0]][name] = declared[takers[0]][name].parse(text, option)
    return parsed


def _unknown_option(
    option: str, artifact: str, declared: dict[str, dict[str, DeclaredOption]]
) -> ConfigError:
    known = {
        f"{artifact}.{name}": written_value(one.default)
        for artifact, options in declared.items()
        for name, one in options.items()
    }
    key = option.partition("=")[0]
    names = [*known, *(name.partition(".")[2] for name in known)]
    if key in names:
        what = f"several steps of {artifact} have the option" if "=" in option else "an option has no value"
        remedy = f"write {next(name for name in known if name.endswith(key))}=VALUE"
    else:
        what = f"the artifact {artifact} has no such option"
        remedy = did_you_mean(key, names) or "correct the name, or remove the option"
    return ConfigError(
        what,
        got=option,
        expected="NAME=VALUE, one of " + ", ".join(f"{name}={default}" for name, default in known.items()),
        remedy=remedy,
    )
