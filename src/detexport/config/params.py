"""Parameters of the pipeline: values of ``params.yaml``."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from detexport.errors import ConfigError, listed

PARAMS = Path("params.yaml")
COMPOSE = "compose params.yaml again with `dvc exp run`"


def load_params(key: str) -> Any:
    """Return the value of ``key`` (dotted) in ``params.yaml``.

    Raises:
        ConfigError: the file or the key is missing, or the user must set a value (``???``).
    """
    if not PARAMS.is_file():
        raise ConfigError(
            "the parameters are missing",
            got=f"no file {PARAMS.resolve()}",
            expected="params.yaml in the current folder",
            remedy="run `dvc repro` or `dvc exp run` in the repository",
        )
    params = OmegaConf.load(PARAMS)
    node: Any = params
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(
                f"{PARAMS} has no {key}",
                got=f"no {part!r}",
                expected=listed(node) if isinstance(node, DictConfig) else "a mapping",
                remedy=f"{COMPOSE}, or correct the name",
            )
        node = node[part]
    if OmegaConf.is_config(node) and OmegaConf.missing_keys(node):
        raise ConfigError(
            f"values of {key} in {PARAMS} are not set",
            got=listed(sorted(f"{name}: ???" for name in OmegaConf.missing_keys(node))),
            expected="a value for each",
            remedy="set them: `dvc exp run -S <name>=<value>`",
        )
    return node


def load_values(key: str) -> Any:
    """The value of ``key`` in plain lists and dicts: see ``load_params``."""
    node = load_params(key)
    return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node
