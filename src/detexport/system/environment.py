"""The software that artifacts are exported and measured with."""

import os
import platform
from typing import Any

from detexport.system.versions import package_versions

BASE_IMAGE = "DETEXPORT_BASE_IMAGE"
"""The environment variable with the container image that a job runs in, preferably by its digest."""
WITHOUT_EFFECT = {"detexport", "mlflow"}
"""Packages that no export depends on, or whose code the stages depend on by themselves."""


def describe_environment() -> dict[str, Any]:
    """Describe the Python, the packages, the operating system and the container image of this process.

    A change of any of them makes the exports and their validation out of date.
    """
    return {
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "os": operating_system(),
        "base_image": os.environ.get(BASE_IMAGE, ""),
        "packages": {k: v for k, v in package_versions().items() if k not in WITHOUT_EFFECT},
    }


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return what differs between two environments: ``torch 2.15.0 -> 2.16.0``."""
    old, new = ({**one, **one["packages"]} for one in (before, now))
    names = [name for name in {**old, **new} if name != "packages" and old.get(name) != new.get(name)]
    return [f"{name} {old.get(name) or 'none'} -> {new.get(name) or 'none'}" for name in names]


def operating_system() -> str:
    """Return name and version of the operating system, or of its kernel if the system has no name."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
