"""Parameters of the pipeline: values of ``params.yaml``."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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
    with _reading():
        node = _value_of(key)
        if OmegaConf.is_config(node):  # what a value refers to must exist
            OmegaConf.to_container(node, resolve=True)
    if OmegaConf.is_config(node) and OmegaConf.missing_keys(node):
        raise ConfigError(
            f"{PARAMS} leaves values of {key} open",
            got=listed(sorted(f"{name}: ???" for name in OmegaConf.missing_keys(node))),
            expected="a value for each",
            remedy="give them: `dvc exp run -S <name>=<value>`",
        )
    return node


def _value_of(key: str) -> Any:
    node: Any = OmegaConf.load(PARAMS)
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(
                f"{PARAMS} has no {key}",
                got=f"no {part!r}",
                expected=listed(node) if isinstance(node, DictConfig) else "a mapping",
                remedy=f"{COMPOSE}, or correct the name",
            )
        node = node[part]
    return node


def load_values(key: str) -> Any:
    """Return the value of ``key`` in plain lists and dicts; see ``load_params``."""
    node = load_params(key)
    return OmegaConf.to_object(node) if OmegaConf.is_config(node) else node


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    # ValueError: bytes that are no text, numbers of too many digits, dates that are none.
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{PARAMS} cannot be read",
            got=f"{type(error).__name__}: {error}",
            expected="a YAML file, as Hydra composes it",
            remedy=COMPOSE,
        ) from error
