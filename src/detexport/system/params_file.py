"""A section of a project's ``params.yaml``, for commands that run without Hydra."""

from pathlib import Path
from typing import Any

import yaml

from detexport.errors import ConfigError, listed
from detexport.system.json_values import decode


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


def decode_section(values: Any, kind: Any, section: str, *, source: str, like: str) -> Any:
    """Convert the values of a section to a dataclass.

    Args:
        values: of the section, with defaults for missing keys.
        kind: the dataclass.
        section: the key of the section, for messages; so are ``source``, its file, and ``like``.
        source: name of the file.
        like: the file that shows the section's keys.

    Raises:
        ConfigError: a key is unknown, or a value is invalid.
    """
    try:
        return decode(values, kind, section)
    except ValueError as error:
        raise ConfigError(
            f"the section {section} of {source} cannot be used",
            got=error,
            expected=f"keys and values as in {like}",
            remedy="correct them",
        ) from error
