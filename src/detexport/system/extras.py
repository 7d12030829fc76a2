"""The extras of the installed distribution: their packages, and which extra installs a missing package.

``pyproject.toml`` declares them; they are read from the installed metadata.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from detexport.errors import MissingPackageError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "detexport"
MODULES = {"hydra-core": "hydra", "onnxruntime-gpu": "onnxruntime"}
"""Modules whose name differs from that of their distribution."""


@cache
def extras() -> dict[str, tuple["Requirement", ...]]:
    """Return what each extra requires beyond the base install; empty if detexport is not installed."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        fields = metadata(DISTRIBUTION)
    except PackageNotFoundError:
        return {}
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in fields.get_all("Requires-Dist", [])]
    return {
        extra: tuple(
            one
            for one in requirements
            if one.marker and not one.marker.evaluate({"extra": ""}) and one.marker.evaluate({"extra": extra})
        )
        for extra in fields.get_all("Provides-Extra", [])
    }


def base_requirements() -> tuple["Requirement", ...]:
    """Return what the base install requires; empty if detexport is not installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        texts = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return ()
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in texts]
    return tuple(one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""}))


def install_command(names: Iterable[str]) -> str:
    """Return the command that adds extras to an installation."""
    return f"pip install '{DISTRIBUTION}[{','.join(sorted(names))}]'"


def unmet(requirements: Iterable["Requirement"]) -> list[str]:
    """Return the requirements that are not met, each with what is installed instead, if anything."""
    return [
        f"{one.name}{one.specifier}" + (f" ({instead})" if instead else "")
        for one in requirements
        if (instead := _installed_instead(one)) is not None
    ]


def _installed_instead(requirement: "Requirement") -> str | None:
    """Return what is installed instead of a requirement: empty if nothing is, None if it is met."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        # onnxruntime and onnxruntime-gpu install the same module: one would overwrite the other.
        module = _module_name(requirement.name)
        return f"another package installs {module}: uninstall it first" if find_spec(module) else ""
    met = requirement.specifier.contains(installed, prereleases=True)
    return None if met else f"{installed} is installed"


def require_packages(*modules: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        *modules: names of top-level modules.

    Raises:
        MissingPackageError: some are not; the message lists them all, and the command that installs them.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise _missing(missing)


@contextmanager
def extra_imports() -> Iterator[None]:
    """Turn a failed import of an extra's package in this block into an error with the install command.

    Raises:
        MissingPackageError: a package that an extra installs is missing, or any package if detexport itself
            is not installed. Another missing module is a bug and raises ``ModuleNotFoundError``.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == DISTRIBUTION or (extras() and _extra_of(module) is None):
            raise
        raise _missing([module]) from error


def _missing(modules: list[str]) -> MissingPackageError:
    found = {module: _extra_of(module) for module in modules}
    names = {extra for extra in found.values() if extra}
    others = [module for module, extra in found.items() if not extra]
    commands = [install_command(_without_contained(names))] if names else []
    commands += [f"pip install {' '.join(others)}"] if others else []
    return MissingPackageError(
        f"{', '.join(modules)} {'is' if len(modules) == 1 else 'are'} not installed",
        remedy=" && ".join(commands),
    )


def _without_contained(names: set[str]) -> set[str]:
    """Return the extras without those whose packages another of them installs too."""
    packages = {name: {one.name for one in extras()[name]} for name in names}
    return {name for name in names if not any(packages[name] < packages[other] for other in names)}


def _extra_of(module: str) -> str | None:
    """Return the smallest extra that installs a top-level module; None if there is none."""
    fitting = [
        (len(requirements), extra)
        for extra, requirements in extras().items()
        if module.lower() in (_module_name(one.name) for one in requirements)
    ]
    return min(fitting)[1] if fitting else None


def _module_name(distribution: str) -> str:
    """Return the module that a distribution of detexport's extras installs."""
    return MODULES.get(distribution, re.sub("[-.]", "_", distribution).lower())
