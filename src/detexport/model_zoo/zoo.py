"""Look-ups in the packaged configurations and in the table of published checkpoints.

This module does not import torch; only ``get`` does, to build a model.
"""

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from detexport.config import get_cfg
from detexport.errors import CheckpointError, ConfigError, did_you_mean, listed, shown

URL_PREFIX = "https://dl.fbaipublicfiles.com/detectron2/"

_PACKAGE = Path(str(files("detexport.model_zoo")))
_CONFIGS = _PACKAGE / "configs"
_TABLE = _PACKAGE / "checkpoints.yaml"
_CLASS_NAMES = _PACKAGE / "class_names.yaml"
LONGEST_NAME = 200
"""Maximum number of characters of a name that are compared with the names of the zoo."""
_SUFFIX = ".yaml"


def get_config_file(config_path: str) -> str:
    """Return the path of a packaged configuration.

    Args:
        config_path: name in the zoo, ``"COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"``.

    Raises:
        ConfigError: the zoo has no such configuration.
    """
    if config_path not in _names():
        raise ConfigError(
            "the model zoo has no such configuration",
            got=shown(config_path),
            expected=f"a name such as {listed(_near(config_path, _names()))}",
            remedy=did_you_mean(config_path, _names())
            or f"correct the name; all {len(_names())} are below {_CONFIGS}",
        )
    return str(_CONFIGS / config_path)


def get_config(config_path: str, trained: bool = False) -> Any:
    """Return the configuration of a model of the zoo, a ``CfgNode``.

    Args:
        config_path: see ``get_config_file``; or a common lazy configuration of a model, such as
            ``"common/models/mask_rcnn_fpn.py"``, of which a node with the key ``model`` is returned.
        trained: set ``MODEL.WEIGHTS`` to the trained checkpoint. Otherwise it names the initial weights of
            the training, mostly an ImageNet backbone.

    Raises:
        ConfigError: the zoo has no such configuration.
        CheckpointError: ``trained``, and no checkpoint is published for it.
    """
    if config_path.endswith(".py"):
        return _lazy_config(config_path, trained)
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def _lazy_config(name: str, trained: bool) -> Any:
    from detexport.model_zoo.lazy_models import MODELS, lazy_config

    if name not in MODELS:
        raise ConfigError(
            "the model zoo has no such lazy configuration",
            got=shown(name),
            expected=f"one of {listed(MODELS)}",
            remedy=did_you_mean(name, list(MODELS)) or "write its nodes into the file that uses them",
        )
    if trained:
        raise CheckpointError(
            f"no trained checkpoint is published for {name}",
            expected="trained=False",
            remedy="give your own checkpoint",
        )
    return lazy_config(name)


def get_checkpoint_url(config_path: str) -> str:
    """Return the URL of the checkpoint that was trained with a configuration of the zoo.

    Raises:
        ConfigError: the zoo has no such configuration.
        CheckpointError: no checkpoint is published for it.
    """
    get_config_file(config_path)
    name = config_path.removesuffix(_SUFFIX)
    published = _checkpoints()
    if name not in published:
        near = [f"{other}{_SUFFIX}" for other in _near(name, list(published))]
        raise CheckpointError(
            f"no trained checkpoint is published for {config_path}",
            expected=f"a name such as {listed(near)}",
            remedy=f"choose one of the {len(published)} in {_TABLE}, or give your own checkpoint",
        )
    return f"{URL_PREFIX}{name}/{published[name]}"


def get(config_path: str, trained: bool = False, device: str | None = None) -> Any:
    """Build a model of the zoo, in training mode, with the weights that ``get_config`` names.

    A trained checkpoint must contain all parameters. An ImageNet backbone loads partially, which is logged.

    Args:
        config_path: see ``get_config_file``.
        trained: load the trained checkpoint; see ``get_config``.
        device: device of the model; None: a CUDA device if torch finds one, else the CPU.

    Raises:
        ConfigError: the zoo has no such configuration, or an option of it is not supported.
        CheckpointError: no checkpoint is published, it cannot be downloaded, or it does not match the model.
    """
    import torch

    from detexport.checkpoint import DetectionCheckpointer
    from detexport.modeling import build_model

    cfg = get_config(config_path, trained)
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(cfg)
    # Initial weights are those of a backbone; a trained checkpoint is the whole model.
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS, strict=trained)
    return model


def get_class_names(dataset: str) -> dict[str, list[str]]:
    """Return the names of ``things`` and ``stuff`` of a data set that the zoo tests on; empty for others.

    Args:
        dataset: a name as in ``DATASETS.TEST``.
    """
    return _class_names().get(dataset, {})


@cache
def _class_names() -> dict[str, dict[str, list[str]]]:
    table: dict[str, dict[str, list[str]]] = yaml.safe_load(_CLASS_NAMES.read_text(encoding="utf-8"))
    return table


@cache
def _names() -> list[str]:
    return sorted(path.relative_to(_CONFIGS).as_posix() for path in _CONFIGS.rglob(f"*{_SUFFIX}"))


@cache
def _checkpoints() -> dict[str, str]:
    table: dict[str, str] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table


def _near(name: str, known: list[str]) -> list[str]:
    return difflib.get_close_matches(name[:LONGEST_NAME], known, n=3, cutoff=0.0)
