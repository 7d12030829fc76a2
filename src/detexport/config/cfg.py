"""``get_cfg()``: a yacs node with detectron2's keys, defaults and ``_BASE_`` inheritance."""

import copy
import functools
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from detexport.config import plain_yaml
from detexport.errors import ConfigError, MissingKeyError, did_you_mean, listed, shown

LAZY = "LAZY"
"""Key that holds the model of a lazy configuration; other configurations do not have it."""
_BASE = "_BASE_"
_SOURCES = "__sources__"
LARGEST_FILE = 1 << 18
"""Limit in bytes; configurations of the model zoo have some hundred, a dumped one 10,000."""
MOST_BASES = 32
_KEY = re.compile(r"[A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*")


class CfgNode(_YacsNode):
    """A configuration tree whose errors name the key, the file and the alternatives."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of a key.

        Raises:
            MissingKeyError: the key does not exist.
        """
        if name in self:
            return self[name]
        if name.startswith("_"):  # Python's own protocols ask for these
            raise AttributeError(name)
        raise MissingKeyError(
            "the configuration has no such key",
            got=name,
            expected=listed(sorted(self)),
            remedy=_remedy(name, self),
        )

    @classmethod
    def load_yaml_with_base(cls, filename: str | Path) -> dict[str, Any]:
        """Load a YAML file with its ``_BASE_`` files: see the function ``load_yaml_with_base``."""
        return load_yaml_with_base(Path(filename))

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge the ``_BASE_`` files of a YAML file, then the file itself; on an error nothing is merged.

        Raises:
            ConfigError: a file cannot be read, or has an unknown key or a value of the wrong type.
        """
        self._merge_all([(str(path), tree) for path, tree in yaml_layers(Path(cfg_filename))])

    def merge_from_tree(self, tree: dict[str, Any], source: str) -> None:
        """Merge nested keys; on an error nothing is merged. ``source`` names the keys in errors.

        Raises:
            ConfigError: a key is unknown, a value has the wrong type, or the configuration is frozen.
        """
        self._merge_all([(source, tree)])

    def _merge_all(self, layers: Sequence[tuple[str, dict[str, Any]]]) -> None:
        # yacs protects attributes only.
        if self.is_frozen():
            raise ConfigError(
                "a frozen configuration cannot be changed",
                got=layers[-1][0],
                remedy="change a clone after defrost()",
            )
        merged, sources = self.clone(), dict(self._sources())
        for source, tree in layers:
            if LAZY in tree:
                self[LAZY] = merged[LAZY] = self.get(LAZY, "")
            _check_version(tree, source)
            _check_keys(tree, merged, source, merged)
            try:
                merged.merge_from_other_cfg(CfgNode(tree))
            # yacs raises the first four; Python the others, for a string with a thousand nested brackets.
            except (ValueError, AssertionError, KeyError, TypeError, MemoryError, RecursionError) as error:
                raise ConfigError(
                    f"{source} does not fit the configuration",
                    got=f"{type(error).__name__}: {error}",
                    remedy="give the value the type of the key's default",
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
        """Return the value of a dotted key, such as ``MODEL.RESNETS.DEPTH``.

        Raises:
            KeyError: the key does not exist.
        """
        return functools.reduce(lambda node, part: node[part], key.split("."), self)

    def source_of(self, key: str) -> str | None:
        """Return the file or override that set the value of a dotted key; None if neither did.

        Raises:
            KeyError: the key does not exist.
        """
        value = self.value_of(key)
        source, merged = self._sources().get(key, (None, None))
        return source if merged == value else None

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge ``[key, value, key, value, ...]`` with dotted keys.

        Raises:
            ConfigError: the number of entries is odd, a key is unknown, or a value has the wrong type.
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
        """Return the tree as YAML with sorted keys."""
        return str(super().dump(**kwargs))


def get_cfg() -> CfgNode:
    """Return a new configuration with all keys at their defaults, and those of ``extend_defaults``."""
    cfg = CfgNode(_defaults())  # CfgNode copies the dict
    for extension in _extensions:
        extension(cfg)
    return cfg


_extensions: list[Callable[[CfgNode], object]] = []


def extend_defaults(extension: Callable[[CfgNode], object]) -> None:
    """Let a project add keys to every new configuration.

    Args:
        extension: sets keys of the configuration that it is called with, like ``add_pointrend_config``.
    """
    if extension not in _extensions:
        _extensions.append(extension)


global_cfg = CfgNode()
"""The configuration of ``set_global_cfg``; empty before."""


def set_global_cfg(cfg: CfgNode) -> None:
    """Let ``global_cfg`` have the values of ``cfg``, for code that no configuration is passed to."""
    global_cfg.clear()
    global_cfg.update(cfg)


@functools.cache
def _defaults() -> dict[str, Any]:
    text = files("detexport.config").joinpath("defaults.yaml").read_text(encoding="utf-8")
    defaults: dict[str, Any] = yaml.safe_load(text)
    return defaults


PROJECT_KEYS = {
    "deeplab": ("DeepLabV3Head", "DeepLabV3PlusHead", "build_resnet_deeplab_backbone"),
    "panoptic_deeplab": ("PanopticDeepLab", "PanopticDeepLabInsEmbedHead", "PanopticDeepLabSemSegHead"),
}
"""Projects of detectron2 that add keys, each with the names of its modules.

A project also has the keys of the projects before it.
"""


@functools.cache
def _project_tree(project: str) -> dict[str, Any]:
    text = files("detexport.config").joinpath(f"{project}.yaml").read_text(encoding="utf-8")
    tree: dict[str, Any] = yaml.safe_load(text)
    return tree


def add_project_keys(cfg: _YacsNode, project: str) -> None:
    """Add the keys of a project of ``PROJECT_KEYS`` that ``cfg`` lacks, with their defaults."""
    for name in PROJECT_KEYS:
        _add_missing(cfg, _project_tree(name))
        if name == project:
            return


def _remedy(name: str, node: dict[str, Any]) -> str:
    """Return how the key comes into a configuration."""
    for project in PROJECT_KEYS:
        if _has_key(_project_tree(project), name):
            return f"call add_{project}_config(cfg) of detexport.projects.{project}"
    return (
        did_you_mean(name, node) or "correct the name, or add the key with its default to the configuration"
    )


def _has_key(tree: Any, name: str) -> bool:
    return isinstance(tree, dict) and (name in tree or any(_has_key(value, name) for value in tree.values()))


def _add_missing(node: _YacsNode, tree: dict[str, Any]) -> None:
    for key, value in tree.items():
        if key not in node:
            node[key] = CfgNode(value) if isinstance(value, dict) else copy.copy(value)
        elif isinstance(value, dict):
            _add_missing(node[key], value)


def all_defaults() -> CfgNode:
    """Return the defaults of all keys, including those of the projects."""
    defaults = get_cfg()
    add_project_keys(defaults, list(PROJECT_KEYS)[-1])
    return defaults


def _needs_project(tree: Any, own: Any, known: Any, names: Sequence[str]) -> bool:
    """Return whether a tree has a key in ``own`` that is not in ``known``, or one of ``names``."""
    if not isinstance(tree, dict):
        return isinstance(tree, str) and tree in names
    for key, value in tree.items():
        inside = own.get(key) if isinstance(own, dict) else None
        below = known.get(key) if isinstance(known, dict) else None
        if (inside is not None and below is None) or _needs_project(value, inside, below, names):
            return True
    return False


def check_project_keys(cfg: _YacsNode) -> None:
    """Raise ConfigError if a configuration names a module of ``PROJECT_KEYS`` without its project's keys."""
    for project, names in PROJECT_KEYS.items():
        named = next(_named(cfg, names, ""), None)
        missing = next(_missing(cfg, _project_tree(project), ""), None)
        if named and missing:
            raise ConfigError(
                f"the configuration lacks keys of {project}",
                got=f"{named} without {missing}",
                expected=f"the keys of add_{project}_config",
                remedy=f"call add_{project}_config(cfg), or name the module in the file, which adds them",
            )


def _named(node: Any, names: Sequence[str], key: str) -> Iterator[str]:
    """Yield the keys whose values are one of ``names``."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _named(value, names, f"{key}{name}.")
        elif isinstance(value, str) and value in names:
            yield f"{key}{name}: {value}"


def _missing(node: Any, tree: dict[str, Any], key: str) -> Iterator[str]:
    """Yield the keys of a tree that a node lacks."""
    for name, value in tree.items():
        if name not in node:
            yield f"{key}{name}"
        elif isinstance(value, dict):
            yield from _missing(node[name], value, f"{key}{name}.")


def load_cfg(path: Path) -> CfgNode:
    """Load a configuration: a YAML file merged into the defaults, or the model of a lazy configuration.

    If the file uses a project of ``PROJECT_KEYS``, the configuration has the keys of that project too.
    """
    from detexport.config.lazy import is_lazy, lazy_cfg  # which imports this module

    if is_lazy(path):
        return lazy_cfg(path)
    cfg = get_cfg()
    layers = yaml_layers(path)
    for project, names in PROJECT_KEYS.items():
        own = _project_tree(project)
        if any(_needs_project(tree, own, _defaults(), names) for _, tree in layers):
            add_project_keys(cfg, project)
    cfg._merge_all([(str(file), tree) for file, tree in layers])
    return cfg


def base_files(path: Path) -> list[Path]:
    """Return the file and its ``_BASE_`` files, each before its own base.

    Raises:
        ConfigError: see ``yaml_layers``.
    """
    return [file for file, _ in reversed(yaml_layers(path))]


@contextmanager
def naming_sources(cfg: CfgNode) -> Iterator[None]:
    """Add the sources of the values to a ConfigError about keys of ``cfg``."""
    try:
        yield
    except ConfigError as error:
        origins = [] if "; where: " in str(error) else [_origin(cfg, key) for key in _KEY.findall(str(error))]
        if known := list(dict.fromkeys(origin for origin in origins if origin)):
            error.args = ConfigError(f"{error}; where: {listed(known)}").args
        raise


def _origin(cfg: CfgNode, key: str) -> str | None:
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
    """Load a YAML file and its ``_BASE_`` files, each after its own base.

    Raises:
        ConfigError: a file is missing, is not a YAML mapping, or is its own base.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    while len(layers) < MOST_BASES:
        with reading(path):
            resolved = path.resolve()
            if resolved in seen:
                raise ConfigError(f"{path} is its own {_BASE}", remedy=f"remove the cycle of {_BASE} entries")
            seen.append(resolved)
            tree = plain_yaml.load(read_text(path))
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
            raise ConfigError(f"{_BASE} of {path} is not a path", got=shown(base), expected="one path")
        with reading(path):
            path = path.parent / Path(base).expanduser()
    raise ConfigError(
        "a configuration has too many bases",
        got=f"{MOST_BASES} from {layers[0][0]} to {path}",
        remedy=f"merge some of the files that {_BASE} names",
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise errors of the file system and the parser as a ConfigError that names the file."""
    try:
        yield
    # RuntimeError: unknown user, or a cycle of symbolic links; ValueError: a null character in a path.
    except (OSError, yaml.YAMLError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cannot read the model configuration {path}",
            got=f"{type(error).__name__}: {error}",
            expected="a detectron2 YAML configuration",
            remedy="give the path of the config.yaml that belongs to the checkpoint",
        ) from error


def read_text(path: Path) -> str:
    """Read a text file of at most ``LARGEST_FILE`` bytes.

    Raises:
        OSError: the path is no regular file, such as a folder or a device, or cannot be read.
        ValueError: the file is larger, or is not UTF-8.
    """
    status = path.stat()  # before opening: opening a pipe waits for its writer
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_size > LARGEST_FILE:
        raise ValueError(
            f"it has {status.st_size} bytes, more than the limit of {LARGEST_FILE} for configurations"
        )
    return path.read_text(encoding="utf-8")


def load_yaml_with_base(path: Path) -> dict[str, Any]:
    """Load a YAML file merged over its ``_BASE_`` files; their paths are relative to the naming file.

    Raises:
        ConfigError: see ``yaml_layers``.
    """
    return functools.reduce(_merged, [tree for _, tree in yaml_layers(path)])


def _merged(base: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in tree.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _decoded(key: Any, value: Any) -> Any:
    """Parse a string as a Python literal if it is one; return other values unchanged."""
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
            expected="VERSION: 2, with the keys of detectron2",
            remedy="rename the keys to their names in VERSION 2, and remove VERSION",
        )


def _leaves(tree: dict[str, Any], known: _YacsNode, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of the values in ``tree``, without deprecated ones."""
    for key, value in tree.items():
        if key not in known:
            continue
        if isinstance(known[key], _YacsNode) and isinstance(value, dict):
            yield from _leaves(value, known[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _allow_new_below(node: _YacsNode) -> None:
    """Allow new keys in groups that were added as new keys, so that the next file can extend them."""
    for child in node.values():
        if isinstance(child, _YacsNode):
            if node.is_new_allowed():
                child.set_new_allowed(True)
            _allow_new_below(child)


def _check_numbers(values: dict[str, Any], source: str) -> None:
    """Raise ConfigError for integers over 64 bits, which would fail in later steps."""
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
    """Raise ConfigError for an unknown key, unless new keys are allowed or it is deprecated or renamed."""
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
