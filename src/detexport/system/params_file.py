"""A section of a project's ``params.yaml``, for commands that run without Hydra."""

from pathlib import Path
from typing import Any

import yaml

from detexport.errors import ConfigError, listed


def read_section(path: Path, section: str, *, like: str, remedy: str) -> dict[str, Any]:
    """Read a section of a project's parameters.

    Args:
        path: the YAML file.
        section: the key of a mapping in it.
        like: the file that shows the section's keys, for messages.
        remedy: what the user can do.

    Raises:
        ConfigError: there is no such file or section, or the file cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may have no end
            raise OSError("it is not a regular file")
        params = yaml.safe_load(path.read_text(encoding="utf-8"))
    # ValueError: invalid UTF-8, numbers with too many digits, invalid dates.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected=f"a YAML file with a section {section}",
            remedy=remedy,
        ) from error
    found = params.get(section) if isinstance(params, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} has no section {section}",
            got=listed(params) if isinstance(params, dict) else type(params).__name__,
            expected=f"a mapping {section}, as in {like}",
            remedy=remedy,
        )
    return found
