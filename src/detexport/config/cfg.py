"""``get_cfg()``: a yacs node with detectron2's keys, defaults and ``_BASE_`` inheritance."""

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from detexport.errors import ConfigError

_BASE = "_BASE_"


class CfgNode(_YacsNode):
    """A configuration tree that names the key, the file and the alternatives when something does not fit."""

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file and, before it, the files that its ``_BASE_`` names.

        Raises:
            ConfigError: the file cannot be read, or holds a key or a type that is not known.
        """
        tree = load_yaml_with_base(Path(cfg_filename))
        self.merge_from_tree(tree, source=str(cfg_filename))

    def merge_from_tree(self, tree: dict[str, Any], source: str) -> None:
        """Merge nested keys; ``source`` names them in errors.

        Raises:
            ConfigError: a key or a type is not known, or the configuration is frozen.
        """
        # yacs itself guards attributes only.
        if self.is_frozen():
            raise ConfigError(
                "a frozen configuration does not change", got=source, remedy="change a clone after defrost()"
            )
        _check_keys(tree, self, source)
        try:
            self.merge_from_other_cfg(CfgNode(tree))
        except (ValueError, AssertionError, KeyError) as error:
            raise ConfigError(
                f"{source} does not fit the configuration",
                got=str(error),
                remedy="give the value the type that the key's default has",
            ) from error

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge ``[key, value, key, value, ...]``, keys with dots.

        Raises:
            ConfigError: an odd number of entries, an unknown key, or a value of the wrong type.
        """
        if len(cfg_list) % 2:
            raise ConfigError(
                "overrides come in pairs of a key and a value",
                got=list(cfg_list),
                remedy="give a value to each key",
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            tree: Any = _YacsNode._decode_cfg_value(value)
            for part in reversed(str(key).split(".")):
                tree = {part: tree}
            self.merge_from_tree(tree, source=f"the override {key}")

    def dump(self, **kwargs: Any) -> str:
        """The whole tree as YAML, keys sorted."""
        return str(super().dump(**kwargs))


def get_cfg() -> CfgNode:
    """A new configuration with every key at its default."""
    text = files("detexport.config").joinpath("defaults.yaml").read_text(encoding="utf-8")
    return CfgNode(yaml.safe_load(text))


def load_cfg(path: Path) -> CfgNode:
    """The defaults with the YAML file ``path`` merged in."""
    cfg = get_cfg()
    cfg.merge_from_file(path)
    return cfg


def base_files(path: Path) -> list[Path]:
    """The file and those that it is merged over, by ``_BASE_``, from the first to the last base.

    Raises:
        ConfigError: see ``load_yaml_with_base``.
    """
    load_yaml_with_base(path)
    files = [path]
    while base := yaml.safe_load(files[-1].read_text(encoding="utf-8")).get(_BASE):
        files.append(files[-1].parent / Path(base).expanduser())
    return files


def load_yaml_with_base(path: Path, _below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file merged over the file that its ``_BASE_`` names, relative to it.

    Raises:
        ConfigError: a file is missing, is not a YAML mapping, or is its own base.
    """
    if path.resolve() in _below:
        raise ConfigError(f"{path} is its own {_BASE}", remedy=f"remove the circle of {_BASE} entries")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the model configuration {path}",
            got=f"{type(error).__name__}: {error}",
            expected="a detectron2 YAML configuration",
            remedy="give the path of the config.yaml that belongs to the checkpoint",
        ) from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} is not a model configuration",
            got=type(tree).__name__,
            expected="a mapping of keys such as MODEL",
            remedy="give the path of a detectron2 YAML configuration",
        )
    base = tree.pop(_BASE, None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{_BASE} of {path} is not a file", got=repr(base), expected="one path")
    below = load_yaml_with_base(path.parent / Path(base).expanduser(), (*_below, path.resolve()))
    return _merged(below, tree)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_keys(tree: dict[str, Any], known: _YacsNode, source: str, prefix: str = "") -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), n=3, cutoff=0.5) or sorted(known)
            raise ConfigError(
                f"unknown key {name} in {source}",
                expected=f"one of {', '.join(f'{prefix}{k}' for k in near)}",
                remedy="correct the key, or remove it",
            )
        if isinstance(known[key], _YacsNode):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{name} in {source} is a group of keys",
                    got=repr(value),
                    expected=f"keys such as {', '.join(f'{name}.{k}' for k in list(known[key])[:3])}",
                    remedy="set the keys inside the group",
                )
            _check_keys(value, known[key], source, f"{name}.")
