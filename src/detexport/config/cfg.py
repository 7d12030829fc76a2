"""``get_cfg()``: a yacs node with detectron2's keys, defaults and ``_BASE_`` inheritance."""

import functools
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from detexport.config import plain_yaml
from detexport.errors import ConfigError, did_you_mean, listed, shown

_BASE = "_BASE_"
_SOURCES = "__sources__"
LARGEST_FILE = 1 << 18
"""Bytes of a configuration; those of the model zoo have some hundred, a dumped one 10,000."""
MOST_BASES = 32
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
            _check_keys(tree, merged, source, merged)
            try:
                merged.merge_from_other_cfg(CfgNode(tree))
            # What yacs raises, and what Python does where a text is a literal of a thousand brackets.
            except (ValueError, AssertionError, KeyError, TypeError, MemoryError, RecursionError) as error:
                raise ConfigError(
                    f"{source} does not fit the configuration",
                    got=f"{type(error).__name__}: {error}",
                    remedy="give the value the type that the key's default has",
                ) from error
            _allow_new_below(merged)
            values = {key: merged.value_of(key) for key in _leaves(tree, merged)}
            _check_numbers(values, source)
            sources |= {key: (source, value) for key, value in values.items()}
        self.merge_from_other_cfg(merged)
        _allow_new_below(self)
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
                got=listed(map(shown, cfg_list)),
                remedy="give a value to each key",
            )
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            tree: Any = _decoded(key, value)
            for part in reversed(str(key).split(".")):
                tree = {part: tree}
            self.merge_from_tree(tree, source=f"the override {key}")

    def dump(self, **kwargs: Any) -> str:
        """The whole tree as YAML, keys sorted."""
        return str(super().dump(**kwargs))


def get_cfg() -> CfgNode:
    """A new configuration with every key at its default."""
    return CfgNode(_defaults())  # which copies them


@functools.cache
def _defaults() -> dict[str, Any]:
    text = files("detexport.config").joinpath("defaults.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.safe_load(text)
    return defaults


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
            error.args = ConfigError(f"{error}; where: {listed(known)}").args
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


def yaml_layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file and those that it is merged over, by ``_BASE_``, the last base first.

    Raises:
        ConfigError: a file is missing, is not a YAML mapping, or is its own base.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    while len(layers) < MOST_BASES:
        with _reading(path):
            resolved = path.resolve()
            if resolved in seen:
                raise ConfigError(
                    f"{path} is its own {_BASE}", remedy=f"remove the circle of {_BASE} entries"
                )
            seen.append(resolved)
            tree = plain_yaml.load(_read(path))
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{path} is not a model configuration",
                got=type(tree).__name__,
                expected="a mapping of keys such as MODEL",
                remedy="give the path of a detectron2 YAML configuration",
            )
        base = tree.pop(_BASE, None)
        layers.append((path, tree))
        if base is None:
            return layers[::-1]
        if not isinstance(base, str):
            raise ConfigError(f"{_BASE} of {path} is not a file", got=shown(base), expected="one path")
        with _reading(path):
            path = path.parent / Path(base).expanduser()
    raise ConfigError(
        "a configuration has too many bases",
        got=f"{MOST_BASES} from {layers[0][0]} to {path}",
        remedy=f"merge some of the files that {_BASE} names",
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a file and a parser raise into an error that names the file."""
    try:
        yield
    # RuntimeError: there is no such user, or a circle of links; ValueError: no path has this character.
    except (OSError, yaml.YAMLError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cannot read the model configuration {path}",
            got=f"{type(error).__name__}: {error}",
            expected="a detectron2 YAML configuration",
            remedy="give the path of the config.yaml that belongs to the checkpoint",
        ) from error


def _read(path: Path) -> str:
    """The text of a regular file of no more than ``LARGEST_FILE``.

    Raises:
        OSError: it is none, such as a folder or a device, or cannot be read.
        ValueError: it is larger, or no text.
    """
    found = path.stat()  # not opened yet: to open a pipe is to wait for its writer
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"it has {found.st_size} bytes, more than the {LARGEST_FILE} of any configuration")
    return path.read_text(encoding="utf-8")


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


def _decoded(key: Any, value: Any) -> Any:
    """A text as the literal that it writes out, if it does; anything else as it is."""
    try:
        return _YacsNode._decode_cfg_value(value)
    except (MemoryError, RecursionError) as error:
        raise ConfigError(
            f"the override {key} is nested too deeply", got=shown(value), remedy=f"correct {key}"
        ) from error


def _check_version(tree: dict[str, Any], source: str) -> None:
    if tree.get("VERSION", 2) != 2:
        raise ConfigError(
            f"{source} is a configuration of another version",
            got=f"VERSION: {shown(tree['VERSION'])}",
            expected="VERSION: 2, with the keys that detectron2 has had since its release",
            remedy="give the keys their present names, and remove VERSION",
        )


def _leaves(tree: dict[str, Any], known: _YacsNode, prefix: str = "") -> Iterator[str]:
    """Keys with dots of the values that ``tree`` gives; deprecated ones have none."""
    for key, value in tree.items():
        if key not in known:
            continue
        if isinstance(known[key], _YacsNode) and isinstance(value, dict):
            yield from _leaves(value, known[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _allow_new_below(node: _YacsNode) -> None:
    """Let a group that came in as a new one take new keys from the next file, too."""
    for child in node.values():
        if isinstance(child, _YacsNode):
            if node.is_new_allowed():
                child.set_new_allowed(True)
            _allow_new_below(child)


def _check_numbers(values: dict[str, Any], source: str) -> None:
    """Refuse integers that no machine has, in which every later step would break."""
    for key, value in values.items():
        rest = [value]
        while rest:
            one = rest.pop()
            if isinstance(one, list | tuple):
                rest.extend(one)
            elif isinstance(one, int) and one.bit_length() > 63:
                raise ConfigError(
                    f"{key} in {source} is out of range",
                    got=shown(one),
                    expected="integers of at most 64 bits",
                    remedy=f"correct {key}",
                )


def _check_keys(
    tree: dict[str, Any], known: _YacsNode, source: str, root: _YacsNode, prefix: str = ""
) -> None:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in known:
            _check_new_key(key, name, known, source, root)
        elif isinstance(known[key], _YacsNode):
            if not isinstance(value, dict):
                raise ConfigError(
                    f"{name} in {source} is a group of keys",
                    got=shown(value),
                    expected=f"keys such as {', '.join(f'{name}.{k}' for k in list(known[key])[:3])}",
                    remedy="set the keys inside the group",
                )
            _check_keys(value, known[key], source, root, f"{name}.")


def _check_new_key(key: Any, name: str, known: _YacsNode, source: str, root: _YacsNode) -> None:
    """Refuse a key that is not known, unless new ones are allowed or it is one of an older version."""
    old = root.key_is_deprecated(name) or root.key_is_renamed(name)
    if isinstance(key, str) and (known.is_new_allowed() or old):
        return
    prefix = name.removesuffix(str(key))
    siblings = [f"{prefix}{one}" for one in known]
    meant = did_you_mean(name, siblings) or did_you_mean(name, _leaves(root, root))
    raise ConfigError(
        f"unknown key {name} in {source}",
        expected=f"one of {listed(siblings)}",
        remedy=meant or "correct the key, or remove it",
    )
