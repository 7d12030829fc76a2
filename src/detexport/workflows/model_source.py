"""The source of a model, checked without building it: free of torch, so a mistake is reported at once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detexport import model_zoo
from detexport.config.cfg import (
    LAZY,
    CfgNode,
    all_defaults,
    check_project_keys,
    load_cfg,
    naming_sources,
)
from detexport.config.lazy import override_lazy
from detexport.config.valid_values import check_exportable, check_values
from detexport.errors import CheckpointError, ConfigError, did_you_mean
from detexport.system.files import is_url
from detexport.system.redaction import public_uri
from detexport.workflows.model_folder import BUILD, CONFIG, LOADED, WEIGHTS, model_folder

SCHEMES = ("https://", "detectron2://", "http://")


@dataclass(frozen=True)
class ModelSource:
    """A configuration and its weights.

    Args:
        config_file: detectron2 YAML by path, or by its name in the model zoo.
        weights: checkpoint by path, ``https://`` or ``detectron2://``; empty: ``MODEL.WEIGHTS``.
        overrides: keys and values in turn, which override the configuration.
        allow_new: patterns of parameters that the weights may lack or hold in another shape.
    """

    config_file: str
    weights: str = ""
    overrides: Sequence[str] = ()
    allow_new: Sequence[str] = ()

    def read_config(self) -> CfgNode:
        """Read the configuration with the overrides; ``MODEL.WEIGHTS`` is ``weights`` if given.

        Raises:
            ConfigError: there is none, or a key or a value does not fit.
        """
        named_file = os.path.isfile(self.config_file)
        cfg = load_cfg(Path(self.config_file)) if named_file else self._zoo_config()
        self._override(cfg)
        with naming_sources(cfg):
            check_values(cfg, all_defaults())
            check_project_keys(cfg)
            check_exportable(cfg)
        cfg.MODEL.WEIGHTS = self.weights or cfg.MODEL.WEIGHTS
        return cfg

    def _override(self, cfg: CfgNode) -> None:
        """Apply the overrides; ``model.KEY`` changes the model of a lazy configuration."""
        pairs = list(zip(self.overrides[0::2], self.overrides[1::2], strict=False))
        lazy = [pair for pair in pairs if LAZY in cfg and str(pair[0]).startswith("model.")]
        if lazy:
            override_lazy(cfg, lazy)
        others = [part for pair in pairs if pair not in lazy for part in pair]
        cfg.merge_from_list([*others, *self.overrides[2 * len(pairs) :]])

    def _zoo_config(self) -> CfgNode:
        """Read a configuration of the zoo, with its trained weights if no others are given."""
        try:
            model_zoo.get_config_file(self.config_file)
        except ConfigError as error:
            raise ConfigError(f"there is no file {self.config_file}, and {error}") from error
        given = bool(self.weights) or "MODEL.WEIGHTS" in self.overrides[::2]
        return model_zoo.get_config(self.config_file, trained=not given)


def find_source(artifact_dir: Path, given: ModelSource) -> ModelSource:
    """Return the source of an artifact's model: as given, else from the pipeline's folders.

    Raises:
        ConfigError: the configuration or the weights are neither given nor in the folders.
    """
    folder = model_folder(artifact_dir)
    return replace(
        given,
        config_file=given.config_file or _existing(folder / BUILD / CONFIG, "--config-file"),
        weights=given.weights or _existing(folder / LOADED / WEIGHTS, "--weights"),
    )


def _existing(path: Path, option: str) -> str:
    if not os.path.isfile(path):
        raise ConfigError(
            f"no {option} is given",
            got=f"no file {path}, the default",
            expected="the configuration and the weights of the model that was exported",
            remedy=f"give {option}",
        )
    return str(path)


def check_weights(weights: str) -> None:
    """Raise CheckpointError unless there is such a file, or an address of a kind that can be fetched."""
    if not weights:
        raise CheckpointError(
            "there are no weights",
            got="neither --weights nor MODEL.WEIGHTS",
            expected="a checkpoint by path, https:// or detectron2://",
            remedy="give --weights",
        )
    if is_url(weights):
        scheme = f"{weights.partition('://')[0]}://"
        if scheme not in SCHEMES:
            raise CheckpointError(
                f"weights cannot be fetched from {public_uri(weights)}",
                got=scheme,
                expected=f"one of {', '.join(SCHEMES)}",
                remedy=did_you_mean(scheme, SCHEMES) or "bring the file here and give its path",
            )
    elif not os.path.isfile(weights):
        raise CheckpointError(
            f"no checkpoint at {weights}",
            got="a folder" if os.path.isdir(weights) else "no such file",
            expected="a file: .pth, .pkl or .safetensors",
            remedy="correct --weights, or MODEL.WEIGHTS",
        )
