"""The defaults of targets, limits and settings: files of ``conf/``, which the pipeline composes too.

They are read when they are needed, without Hydra.
"""

import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from detexport.errors import ConfigError, shown

GROUPS = ("export", "parity", "registry", "retraining")
"""The folders of ``conf/`` that a wheel has within the package; pyproject.toml lists them, too."""
_PACKAGE = Path(__file__).parent
# In a checkout conf/ lies next to src/.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"


@cache
def read_defaults(name: str) -> dict[str, Any]:
    """Return the values of a file of ``conf/``, such as ``"parity/default"``; do not change them.

    Raises:
        ConfigError: the file is missing, or is not a mapping in YAML.
    """
    return read_mapping(CONF / f"{name}.yaml")


def merged(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults with the given values in their place, in mappings key by key."""
    values = {**defaults, **given}
    for name, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(values[name], Mapping):
            values[name] = merged(default, values[name])
    return values


def read_targets(conf: Path = CONF) -> dict[str, dict[str, Any]]:
    """Return the targets and the artifacts that the files of ``conf/export`` define.

    Returns:
        ``{"targets": {name: options}, "artifacts": {name: options}}``, in the order of the files' names.

    Raises:
        ConfigError: a file is not such a mapping.
    """
    found: dict[str, dict[str, Any]] = {"targets": {}, "artifacts": {}}
    for path in sorted((conf / "export").glob("*.yaml")):
        for kind, options in read_mapping(path).items():
            if kind not in found or not isinstance(options, dict):
                raise ConfigError(
                    f"{path} does not define a target",
                    got=f"{kind}: {shown(options)}",
                    expected=f"mappings {' and '.join(found)}, as in conf/export/onnx.yaml",
                    remedy="correct it",
                )
            found[kind].update(options)
    return found


def copy_package(folder: Path) -> Path:
    """Copy the package with its part of ``conf/`` into a folder, as a wheel holds it; return the copy."""
    copy = folder / _PACKAGE.name
    shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for group in GROUPS:
        shutil.copytree(CONF / group, copy / "conf" / group, dirs_exist_ok=True)
    return copy


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the values of a YAML file.

    Raises:
        ConfigError: the file is missing, or is not a mapping in YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected="a YAML file",
            remedy="correct it, or install detexport again",
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} is not a mapping", got=shown(values), expected="a mapping", remedy="correct it"
        )
    return values
