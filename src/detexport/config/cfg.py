"""``get_cfg()``: a yacs node with detectron2's keys, defaults and ``_BASE_`` inheritance."""

import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from detexport.config import plain_yaml
from detexport.errors import ConfigError

_BASE = "_BASE_"
_SOURCES = "__sources__"
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*")


class CfgNode(_YacsNode):
    """A configuration tree that names the key, the file and the alternatives when something does not fit."""

    @classmethod
    def load_yaml_with_base(cls, filename: str | Path) -> dict[str, Any]:
        """See ``load_yaml_with_base``."""
        return load_yaml_with_base(Path(filename))

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file and, before it, the files that its ``_BASE_`` names; all of them, or nothing.

        Raises:
            ConfigError: a file cannot be read, or holds a key or a type that is not known.
        """
        self._merge_all([(str(path), tree) for path, tree in yaml_layers(Path(cfg_filename))])

    def merge_from_tree(self, tree: dict[str, Any], source: str) -> None:
        """Merge nested keys, all of them or nothing; ``source`` names them in errors.

        Raises:
            ConfigError: a key or a type is not known, or the configuration is frozen.
        """
        self._merge_all([(source, tree)])

    def _merge_all(self, layers: Sequence[tuple[str, dict[str, Any]]]) -> None:
        # yacs itself guards attributes only.
        if self.is_frozen():
            raise ConfigError(
                "a frozen configuration does not change",
                got=layers[-1][0],
                remedy="change a clone after defrost()",
            )
        merged, sources = self.clone(), dict(self._sources())
        for source, tree in layers:
            _check_version(tree, source)
            _check_keys(tree, merged, source)
            try:
                merged.merge_from_other_cfg(CfgNode(tree))
            except (ValueError, AssertionError, KeyError) as error:
                raise ConfigError(
                    f"{source} does not fit the configuration",
                    got=str(error),
                    remedy="give the value the type that the key's default has",
                ) from error
            sources |= {key: (source, merged.value_of(key)) for key in _leaves(tree, merged)}
        self.merge_from_other_cfg(merged)
        self.__dict__[_SOURCES] = sources

    def _sources(self) -> dict[str, tuple[str, Any]]:
        return self.__dict__.get(_SOURCES, {})

    def value_of(self, key: str) -> Any:
        """The value of a key with dots, such as ``MODEL.RESNETS.DEPTH``.

        Raises:
            KeyError: there is no such key.
        """
        return functools.reduce(lambda node, part: node[part], key.split("."), self)

    def source_of(self, key: str) -> str | None:
        """Where the value of a key with dots is from; none where no file and no override said it.

        Raises:
            KeyError: there is no such key.
        """
        value = self.value_of(key)
        source, said = self._sources().get(key, (None, None))
        return source if said == value else None

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
        ConfigError: see ``yaml_layers``.
    """
    return [file for file, _ in reversed(yaml_layers(path))]


@contextmanager
def naming_sources(cfg: CfgNode) -> Iterator[None]:
    """Add to an error about keys of ``cfg`` where their values are from."""
    try:
        yield
    except ConfigError as error:
        places = [] if "; where: " in str(error) else [_place(cfg, key) for key in _KEY.findall(str(error))]
        if known := list(dict.fromkeys(place for place in places if place)):
            error.args = (f"{error}; where: {', '.join(known)}",)
        raise


def _place(cfg: CfgNode, key: str) -> str | None:
    try:
        value, source = cfg.value_of(key), cfg.source_of(key)
        default = get_cfg().value_of(key)
    except (KeyError, TypeError):
        return None
    if isinstance(value, _YacsNode):
        return None
    if source is None:
        return f"{key} at its default" if value == default else f"{key} set in code"
    return f"{key} in {source}"


def yaml_layers(path: Path, _above: tuple[Path, ...] = ()) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and those that it is merged over, by ``_BASE_``, the last base first.

    Raises:
        ConfigError: a file is missing, is not a YAML mapping, or is its own base.
    """
    if path.resolve() in _above:
        raise ConfigError(f"{path} is its own {_BASE}", remedy=f"remove the circle of {_BASE} entries")
    try:
        tree = plain_yaml.load(path.read_text(encoding="utf-8"))
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
        return [(path, tree)]
    if not isinstance(base, str):
        raise ConfigError(f"{_BASE} of {path} is not a file", got=repr(base), expected="one path")
    below = yaml_layers(path.parent / Path(base).expanduser(), (*_above, path.resolve()))
    return [*below, (path, tree)]


def load_yaml_with_base(path: Path) -> dict[str, Any]:
    """A YAML file merged over the file that its ``_BASE_`` names, relative to it, and so on.

    Raises:
        ConfigError: see ``yaml_layers``.
    """
    return functools.reduce(_merged, [tree for _, tree in yaml_layers(path)])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_version(tree: dict[str, Any], source: str) -> None:
    if tree.get("VERSION", 2) != 2:
        raise ConfigError(
            f"{source} is a configuration of another version",
            got=f"VERSION: {tree['VERSION']}",
            expected="VERSION: 2, with the keys that detectron2 has had since its release",
            remedy="give the keys their present names, and remove VERSION",
        )


def _leaves(tree: dict[str, Any], known: _YacsNode, prefix: str = "") -> Iterator[str]:
    """Keys with dots of the values that ``tree`` gives."""
    for key, value in tree.items():
        if isinstance(known[key], _YacsNode):
            yield from _leaves(value, known[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


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
