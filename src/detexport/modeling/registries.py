"""Registries by which a configuration names a module, and users' extensions join it without touching ours."""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from detexport.errors import ConfigError

Entry = TypeVar("Entry", bound=Callable[..., Any])


class Registry:
    """Classes and functions by name.

    Args:
        name: what the entries are, for errors.
        key: configuration key that names an entry, for errors.
    """

    def __init__(self, name: str, key: str) -> None:
        self.name = name
        self.key = key
        self._entries: dict[str, Callable[..., Any]] = {}

    def register(self, entry: Entry | None = None, *, name: str | None = None) -> Any:
        """Add a class or function; usable as a decorator with and without parentheses.

        Args:
            entry: what is built when a configuration names it.
            name: its name, by default the entry's own.

        Raises:
            ValueError: the name is taken.
        """
        if entry is None:
            return partial(self.register, name=name)
        name = name or entry.__name__
        if name in self._entries:
            raise ValueError(f"{self.name} {name!r} is registered already")
        self._entries[name] = entry
        return entry

    def get(self, name: str, key: str | None = None) -> Callable[..., Any]:
        """The entry called ``name``.

        Args:
            name: of the entry.
            key: configuration key that named it, where it is not the registry's own.

        Raises:
            ConfigError: there is none.
        """
        if name not in self._entries:
            key = key or self.key
            near = difflib.get_close_matches(str(name), self._entries, n=3) or sorted(self._entries)
            raise ConfigError(
                f"unknown {self.name}",
                got=f"{key}: {name!r}",
                expected=f"one of {', '.join(near)}",
                remedy=f"correct {key}, or register a {self.name} of that name",
            )
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries


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
