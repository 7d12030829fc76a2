"""Versions and devices of this machine, for reports of problems."""

from torch.utils.collect_env import get_pretty_env_info

from detexport import __version__


def collect_env_info() -> str:
    """Return the versions of this package, torch and its libraries, and the devices."""
    return f"detexport: {__version__}\n{get_pretty_env_info()}"
