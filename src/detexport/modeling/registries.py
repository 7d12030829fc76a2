"""Registries of the modules that a configuration names; users register their own."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from detexport.config import CfgNode
from detexport.config.cfg import naming_sources
from detexport.errors import ConfigError, did_you_mean, listed, shown
from detexport.utils.registry import Registry as PlainRegistry


class Registry(PlainRegistry):
    """Classes and functions by name or by dotted path.

    Args:
        name: what the entries are, such as ``"backbone"``, for errors.
        key: configuration key that names an entry, for errors.
    """

    def __init__(self, name: str, key: str) -> None:
        super().__init__(name)
        self.key = key

    def get(self, name: str, key: str | None = None) -> Callable[..., Any]:
        """Return the entry ``name``, or import the dotted path ``name``, such as ``"package.module.Class"``.

        Args:
            name: name of the entry.
            key: configuration key that named it, for errors; by default the registry's.

        Raises:
            ConfigError: there is no such entry.
        """
        key = key or self.key
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        if isinstance(name, str) and "." in name:
            return self._import(name, key)
        raise ConfigError(
            f"unknown {self.name}",
            got=f"{key}: {shown(name)}",
            expected=f"one of {listed(sorted(self._entries))}, or the dotted path of your own",
            remedy=did_you_mean(name, self._entries)
            or f"correct {key}, or register a {self.name} of that name",
        )

    def build(self, cfg: CfgNode, *args: Any) -> Any:
        """Call the entry that ``cfg`` names with ``cfg`` and ``args``; errors name the source of a value.

        Raises:
            ConfigError: there is no such entry, or it cannot be built as it is configured.
        """
        with naming_sources(cfg):
            name = cfg.value_of(self.key)
            entry = self.get(name)
            try:
                # A ``configurable`` accepts any arguments and checks them itself.
                inspect.signature(entry, follow_wrapped=False).bind(cfg, *args)
            except TypeError as error:
                raise ConfigError(
                    f"the {self.name} has another signature",
                    got=f"{self.key}: {name!r}, called with a configuration: {error}",
                    expected=f"one that is called with a configuration and {len(args)} more arguments",
                    remedy="decorate its __init__ with detexport.config.configurable, or register a function",
                ) from error
            return entry(cfg, *args)

    def _import(self, path: str, key: str) -> Callable[..., Any]:
        module_name, _, attribute = path.rpartition(".")
        try:
            if not all(part.isidentifier() for part in path.split(".")):
                raise ImportError("not a dotted path")
            entry = getattr(importlib.import_module(module_name), attribute)
        # An import may raise anything, also SystemExit.
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"cannot import a {self.name}",
                got=f"{key}: {shown(path)} ({type(error).__name__}: {error})",
                expected=f"package.module.Name, or one of {listed(sorted(self._entries))}",
                remedy=f"correct {key}, or put the module's folder on PYTHONPATH",
            ) from error
        if not (inspect.isclass(entry) or inspect.isfunction(entry)):
            raise ConfigError(
                f"not a {self.name}",
                got=f"{key}: {path!r}, a {type(entry).__name__}",
                expected="a class or a function",
                remedy=f"correct {key}",
            )
        return entry


META_ARCH_REGISTRY = Registry("meta architecture", "MODEL.META_ARCHITECTURE")
BACKBONE_REGISTRY = Registry("backbone", "MODEL.BACKBONE.NAME")
PROPOSAL_GENERATOR_REGISTRY = Registry("proposal generator", "MODEL.PROPOSAL_GENERATOR.NAME")
RPN_HEAD_REGISTRY = Registry("RPN head", "MODEL.RPN.HEAD_NAME")
ANCHOR_GENERATOR_REGISTRY = Registry("anchor generator", "MODEL.ANCHOR_GENERATOR.NAME")
ROI_HEADS_REGISTRY = Registry("ROI heads", "MODEL.ROI_HEADS.NAME")
ROI_BOX_HEAD_REGISTRY = Registry("box head", "MODEL.ROI_BOX_HEAD.NAME")
ROI_MASK_HEAD_REGISTRY = Registry("mask head", "MODEL.ROI_MASK_HEAD.NAME")
SEM_SEG_HEADS_REGISTRY = Registry("semantic segmentation head", "MODEL.SEM_SEG_HEAD.NAME")
POINT_HEAD_REGISTRY = Registry("point head", "MODEL.POINT_HEAD.NAME")
ROI_KEYPOINT_HEAD_REGISTRY = Registry("keypoint head", "MODEL.ROI_KEYPOINT_HEAD.NAME")
