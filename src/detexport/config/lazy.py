"""``LazyConfig``: configurations that name classes and their arguments; ``instantiate`` calls them."""

import dataclasses
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from detexport.config import lazy_python, lazy_yaml
from detexport.config.cfg import LAZY, CfgNode, get_cfg, read_text, reading
from detexport.config.lazy_yaml import ARGUMENTS, NAME, PARTIAL, TARGET
from detexport.config.plain_yaml import MOST_VALUES
from detexport.config.valid_values import check_arguments
from detexport.errors import ConfigError, DetexportError, is_allocation_failure, listed, shown

OWN = __name__.partition(".")[0]
ALLOWED_PACKAGES = ("data.transforms", "layers", "modeling", "projects", "solver", "structures")
"""Packages of detexport whose classes a configuration may name; none of them reads or writes files."""
FUNCTIONS = (
    "get_norm",
    "get_vit_lr_decay_rate",
    "make_default_stages",
    "make_stage",
)
"""Functions of these packages that a configuration may name."""
RECURSIVE, MODEL, RESIZE = "_recursive_", "model", "resize"
_KEY = re.compile(r"\$\{\.*(\w+)")
"""First key of an interpolation."""

_projects: set[str] = set()


def allow_project(name: str) -> None:
    """Allow configurations to name the objects of a package that the user imported by name."""
    _projects.add(name.partition(".")[0])


class LazyCall:
    """A deferred call: ``LazyCall(nn.Conv2d)(in_channels=3, out_channels=8, kernel_size=3)``.

    The result is a node with the target and its arguments, which may be changed; ``instantiate`` calls it.

    Args:
        target: class or function, or its dotted path.

    Raises:
        TypeError: ``target`` is neither.
    """

    def __init__(self, target: Callable[..., Any] | str) -> None:
        if not (callable(target) or isinstance(target, str | Mapping)):
            raise TypeError(f"a LazyCall needs a class or function, or its path, got {shown(target)}")
        self._target = target

    def __call__(self, **kwargs: Any) -> Any:
        """Return the node of a call with these arguments."""
        target = self._target
        if dataclasses.is_dataclass(target):  # OmegaConf would take it for the schema of a node
            target = lazy_python.public_path(target)
        return lazy_python.node({TARGET: target, **kwargs})


class LazyConfig:
    """Read, change and write lazy configurations."""

    @staticmethod
    def load(filename: str | Path, keys: str | Sequence[str] | None = None, *, trust: bool = False) -> Any:
        """Load a ``.yaml`` file, without executing code, or execute a ``.py`` file in a separate process.

        Args:
            filename: path of the file.
            keys: return the value of this key, or a tuple of the values of these keys.
            trust: execute the code of a ``.py`` file. The environment variable ``DETEXPORT_TRUST_CONFIG=1``
                does the same, and so does ``--trust-config`` on the command line.

        Raises:
            ConfigError: there is no such file or key, the file is not a lazy configuration, or it is code
                that is not trusted.
        """
        path = Path(filename)
        if path.suffix == ".py":
            text = lazy_python.execute(path, trust=trust)
        else:
            with reading(path):
                text = read_text(path)
        with reading(path):
            tree = lazy_yaml.load(text)
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{path} is not a lazy configuration",
                got=type(tree).__name__,
                expected="a mapping of keys such as model",
                remedy="give a file that defines LazyCall nodes, or that LazyConfig.save wrote",
            )
        cfg = lazy_python.node(tree)
        if keys is None:
            return cfg
        names = (keys,) if isinstance(keys, str) else tuple(keys)
        if unknown := [name for name in names if name not in cfg]:
            raise ConfigError(
                f"{path} does not have these keys",
                got=listed(unknown),
                expected=f"one of {listed(sorted(map(str, cfg)))}",
                remedy="correct the keys",
            )
        return cfg[keys] if isinstance(keys, str) else tuple(cfg[name] for name in names)

    @staticmethod
    def load_rel(filename: str, keys: str | Sequence[str] | None = None) -> Any:
        """Load a file by its path relative to that of the caller: see ``load``."""
        caller = sys._getframe(1).f_code.co_filename
        return LazyConfig.load(Path(caller).parent / filename, keys)

    @staticmethod
    def save(cfg: Any, filename: str | Path) -> None:
        """Write a configuration as YAML.

        Raises:
            ConfigError: a value cannot be written as YAML, such as a function without a name.
        """
        Path(filename).write_text(lazy_python.dump(cfg), encoding="utf-8")

    @staticmethod
    def apply_overrides(cfg: Any, overrides: Sequence[str]) -> Any:
        """Change values in place, and return the configuration.

        Args:
            cfg: the configuration.
            overrides: each ``key.of.value=VALUE`` with the value in YAML, ``+key=VALUE`` for a new key, or
                ``~key`` to remove one.

        Raises:
            ConfigError: an override has another form, or its key does not exist.
        """
        from omegaconf import OmegaConf

        for override in overrides:
            key, equals, text = override.partition("=")
            name = key.lstrip("+~")
            if not name or bool(equals) == key.startswith("~"):
                raise ConfigError(
                    "not an override",
                    got=override,
                    expected="key.of.value=VALUE",
                    remedy="write the key, = and the value without spaces",
                )
            group, _, last = name.rpartition(".")
            parent = OmegaConf.select(cfg, group) if group else cfg
            if not key.startswith("+") and not OmegaConf.is_config(parent):
                raise ConfigError(
                    f"there is no group {group} to override",
                    got=override,
                    expected="a key below a node of the configuration",
                    remedy=f"correct the key, or add it with +{name}=...",
                )
            if not key.startswith("+") and not _has(parent, last):
                raise ConfigError(
                    f"unknown key {name}",
                    got=override,
                    expected=f"one of {listed(map(str, parent))}",
                    remedy=f"correct the key, or add it with +{name}=...",
                )
            if key.startswith("~"):
                del parent[last]
            else:
                try:
                    OmegaConf.update(cfg, name, yaml.safe_load(text), merge=False, force_add=True)
                except yaml.YAMLError as error:
                    raise ConfigError(
                        f"the value of {name} is not YAML",
                        got=shown(text),
                        expected="a value such as 0.5, [1, 2] or name",
                        remedy=f"correct the value of {name}",
                    ) from error
        return cfg

    @staticmethod
    def to_py(cfg: Any, prefix: str = "cfg.") -> str:
        """Return a configuration as Python-like text, to read.

        Args:
            cfg: the configuration.
            prefix: starts every line.
        """
        return "\n".join(_lines(lazy_python.plain(cfg), prefix))


def _has(parent: Any, key: str) -> bool:
    return int(key) < len(parent) if key.isdecimal() and not isinstance(parent, Mapping) else key in parent


def _lines(tree: Any, prefix: str) -> list[str]:
    if not isinstance(tree, dict) or TARGET in tree or NAME in tree or PARTIAL in tree:
        return [f"{prefix.rstrip('.')} = {_expression(tree)}"]
    return [line for key, value in tree.items() for line in _lines(value, f"{prefix}{key}.")]


def _expression(value: Any) -> str:
    if isinstance(value, dict) and NAME in value:
        return str(value[NAME])
    if isinstance(value, dict) and (TARGET in value or PARTIAL in value):
        arguments = [_expression(one) for one in value.get(ARGUMENTS, ())]
        arguments = [_expression(value[PARTIAL]), *arguments] if PARTIAL in value else arguments
        own = {key: one for key, one in value.items() if key not in (TARGET, PARTIAL, ARGUMENTS)}
        arguments += [f"{key}={_expression(one)}" for key, one in own.items()]
        return f"{value.get(TARGET, 'functools.partial')}({', '.join(arguments)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_expression(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_expression, value)) + "]"
    return repr(value)


def is_lazy(path: Path) -> bool:
    """Return whether a file is Python code, or YAML with a node ``model`` that has a target."""
    if path.suffix == ".py":
        return True
    try:
        text = read_text(path)
    except (OSError, ValueError):
        return False  # loading it as another configuration reports what is wrong
    if f"\n{MODEL}:" not in f"\n{text}":
        return False
    try:
        tree = lazy_yaml.load(text)
    except yaml.YAMLError:
        return TARGET in text  # loading it reports what is wrong
    return isinstance(tree, dict) and isinstance(tree.get(MODEL), dict) and TARGET in tree[MODEL]


def lazy_cfg(path: Path) -> CfgNode:
    """Return the configuration of the model that a lazy configuration builds.

    The key ``LAZY`` holds the node ``model`` as YAML, which ``build_model`` instantiates, the keys that its
    interpolations refer to, and ``resize``, as ``dataloader.test`` resizes images, if there is one. The keys
    of other models have no effect.

    Raises:
        ConfigError: see ``LazyConfig.load``; or there is no node ``model`` with a target.
    """
    tree = lazy_python.plain(LazyConfig.load(path))
    model = tree.get(MODEL)
    if not isinstance(model, dict) or TARGET not in model:
        raise ConfigError(
            f"{path} defines no model",
            got=f"keys {listed(sorted(tree))}",
            expected="the key model, with a LazyCall node",
            remedy="assign the model's node to `model`, or give the file that defines it",
        )
    cfg = get_cfg()
    resize = _resize_of(tree)
    cfg[LAZY] = lazy_yaml.dump({**_referenced(tree), **({RESIZE: resize} if resize else {})})
    cfg.MODEL.META_ARCHITECTURE = str(model[TARGET]).rpartition(".")[2]
    return cfg


def _referenced(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the node ``model`` and the keys that its interpolations refer to, directly or through others."""
    found: dict[str, Any] = {}
    left = [MODEL]
    while left:
        name = left.pop()
        if name in tree and name not in found:
            found[name] = tree[name]
            left += _KEY.findall(lazy_yaml.dump(tree[name]))
    return found


def _resize_of(tree: dict[str, Any]) -> list[int] | None:
    """Return the shortest edge and the upper bound of the longest that ``dataloader.test`` resizes to."""
    test: Any = tree
    for key in ("dataloader", "test", "mapper"):
        test = test.get(key) if isinstance(test, dict) else None
    found = test.get("augmentations", ()) if isinstance(test, dict) else ()
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict) and str(one.get(TARGET)).endswith(".ResizeShortestEdge"):
            shortest, longest = one.get("short_edge_length"), one.get("max_size")
            shortest = shortest[0] if isinstance(shortest, list) and shortest else shortest
            if isinstance(shortest, int) and isinstance(longest, int):
                return [shortest, longest]
    return None


def override_lazy(cfg: CfgNode, overrides: Sequence[tuple[str, Any]]) -> None:
    """Change values of the node ``model`` in ``LAZY``; each override is a dotted key and a value in YAML.

    Raises:
        ConfigError: see ``LazyConfig.apply_overrides``.
    """
    tree = lazy_python.node(lazy_yaml.load(cfg[LAZY]))
    LazyConfig.apply_overrides(tree, [f"{key}={value}" for key, value in overrides])
    cfg[LAZY] = lazy_python.dump(tree)


def build_lazy(cfg: CfgNode) -> tuple[Any, list[int]]:
    """Return the model in ``LAZY``, and the shortest edge and the upper bound of the longest, if given."""
    try:
        tree = lazy_yaml.load(cfg[LAZY])
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value of {LAZY} is not a lazy configuration",
            got=error,
            expected="YAML with a node model",
            remedy="build the model's configuration again from its lazy configuration",
        ) from error
    return instantiate(lazy_python.node(tree)[MODEL]), tree.get(RESIZE, [])


def lazy_integers(cfg: CfgNode) -> Iterator[tuple[str, int]]:
    """Yield the integers of the node ``model`` in ``LAZY``, each with its dotted key."""
    left: list[tuple[str, Any]] = [(MODEL, lazy_yaml.load(cfg[LAZY])[MODEL])]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}", one) for name, one in value.items()]
        elif isinstance(value, list):
            left += [(key, one) for one in value]
        elif isinstance(value, int):
            yield key, value


def instantiate(cfg: Any) -> Any:
    """Call the targets of a lazy configuration, inner ones first.

    Args:
        cfg: a node with ``_target_``, or a list of nodes; any other value is returned as it is. A target is a
            class or function, or a path of an allowed one: classes of ``ALLOWED_PACKAGES`` under detectron2's
            paths, of ``torch.nn`` and ``torch.optim``, and what is in a project that ``--with`` imported.

    Raises:
        ConfigError: a target does not exist or is not allowed, its arguments do not fit, or an interpolation
            does not resolve.
    """
    from omegaconf.errors import OmegaConfBaseException

    is_node = isinstance(cfg, Mapping) and any(key in cfg for key in (TARGET, NAME, PARTIAL))
    if isinstance(cfg, Mapping) and not is_node and not _dataclass_of(cfg):
        return cfg
    try:
        return _Instantiation(MOST_VALUES).value(cfg)
    except (OmegaConfBaseException, RecursionError) as error:
        text = str(error).splitlines()[0]
        is_cycle = isinstance(error, RecursionError) or "RecursionError" in text
        raise ConfigError(
            "an interpolation of the lazy configuration cannot be resolved",
            got="a value that refers to itself" if is_cycle else text,
            expected="keys that exist, as in ${model.num_classes}",
            remedy="correct it in the lazy configuration",
        ) from error


def _dataclass_of(cfg: Any) -> bool:
    from omegaconf import DictConfig

    return isinstance(cfg, DictConfig) and dataclasses.is_dataclass(cfg._metadata.object_type)


class _Instantiation:
    """Instantiation of one configuration.

    Args:
        left: remaining number of values, since lists of references to lists could grow without bound.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def value(self, cfg: Any) -> Any:
        """Return a value of the configuration, of which nodes are called."""
        from omegaconf import ListConfig, OmegaConf

        self.left -= 1
        if self.left < 0:
            raise ConfigError(
                "a lazy configuration is too large",
                got="references that expand without an end in sight",
                expected=f"at most {MOST_VALUES} values",
                remedy="write the values out instead of references to lists of references",
            )
        if isinstance(cfg, ListConfig | list | tuple):
            return [self.value(one) for one in cfg]
        if not isinstance(cfg, Mapping):
            return cfg
        if _dataclass_of(cfg):
            return OmegaConf.to_object(cfg)
        if NAME in cfg:
            return resolve(cfg[NAME])
        recursive = cfg.get(RECURSIVE, True)
        fields = {key: self.value(one) if recursive else one for key, one in cfg.items() if key != RECURSIVE}
        if PARTIAL in fields:
            target, arguments = _target(fields.pop(PARTIAL)), _arguments(fields)
            return functools.partial(target, *arguments, **fields)
        if TARGET not in fields:
            return fields
        target, arguments = _target(fields.pop(TARGET)), _arguments(fields)
        return _call(target, arguments, fields)


def _arguments(fields: dict[str, Any]) -> list[Any]:
    """Take the positional arguments out of the fields of a node."""
    found = fields.pop(ARGUMENTS, [])
    if not isinstance(found, list):
        raise ConfigError(
            f"{ARGUMENTS} of a lazy configuration is no list",
            got=shown(found),
            expected="the positional arguments, a list",
            remedy=f"correct {ARGUMENTS}",
        )
    return found


def _target(target: Any) -> Callable[..., Any]:
    if isinstance(target, str):
        return resolve(target)
    if not callable(target):
        raise ConfigError(
            "a target of the lazy configuration is neither a class nor a function",
            got=shown(target),
            expected="a class or function, or its dotted path",
            remedy="correct _target_ in the lazy configuration",
        )
    return target


def _call(target: Callable[..., Any], arguments: Sequence[Any], fields: dict[str, Any]) -> Any:
    """Call a target; errors of our and torch's own classes become one line."""
    _check_arguments(target, arguments, fields)
    if _root(target) not in (OWN, "torch"):
        return target(*arguments, **fields)
    for name, value in [*fields.items(), *((ARGUMENTS, one) for one in arguments)]:
        check_arguments(str(name), value)
    try:
        return target(*arguments, **fields)
    except (DetexportError, RecursionError):
        raise
    except Exception as error:
        if is_allocation_failure(error):
            raise
        raise ConfigError(
            f"{getattr(target, '__qualname__', target)} refuses its arguments",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            expected="the values that its documentation describes",
            remedy="correct them in the lazy configuration",
        ) from error


def _root(found: Any) -> str:
    return str(getattr(found, "__module__", "")).partition(".")[0]


def _check_arguments(target: Callable[..., Any], arguments: Sequence[Any], fields: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(target)
    except ValueError:  # written in C without one
        return
    try:
        signature.bind(*arguments, **fields)
    except TypeError as error:
        raise ConfigError(
            f"the arguments do not fit {getattr(target, '__qualname__', target)}",
            got=error,
            expected=listed(signature.parameters) or "no arguments",
            remedy="correct them in the lazy configuration",
        ) from error


def resolve(path: str) -> Any:
    """Return the class or function of a dotted path, if configurations may name it.

    Raises:
        ConfigError: it does not exist, or is not allowed.
    """
    parts = path.split(".")
    if parts[0] == lazy_python.ROOT:
        parts[0] = OWN
    names = all(part.isidentifier() and not part.startswith("_") for part in parts)
    in_rooms = ".".join(parts).startswith(tuple(f"{OWN}.{package}." for package in ALLOWED_PACKAGES))
    if names and (in_rooms or parts[:2] in (["torch", "nn"], ["torch", "optim"]) or parts[0] in _projects):
        found = _walk(parts, path)
        if _is_allowed(found):
            return found
    raise _refused(path)


def _is_allowed(found: Any) -> bool:
    """Return whether a configuration may name what a path leads to, which a package may only re-export."""
    module = f"{getattr(found, '__module__', '')}."
    if module.startswith(tuple(f"{OWN}.{package}." for package in ALLOWED_PACKAGES)):
        return isinstance(found, type) or getattr(found, "__name__", None) in FUNCTIONS
    if module.startswith(("torch.nn.", "torch.optim.")):
        return isinstance(found, type) and _is_layer_or_optimizer(found)
    return callable(found) and _root(found) in _projects


def _walk(parts: list[str], path: str) -> Any:
    """Follow a path through modules of its first package and the attributes of classes."""
    found: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            try:
                importlib.import_module(".".join(parts[:depth]))
            except ImportError as error:
                raise _refused(path) from error
        found = getattr(found, part, None)
        if isinstance(found, ModuleType) and found.__name__.partition(".")[0] != parts[0]:
            raise _refused(path)
    return found


def _is_layer_or_optimizer(found: type) -> bool:
    from torch import nn, optim

    return issubclass(found, nn.Module | optim.Optimizer)


def _refused(path: str) -> ConfigError:
    return ConfigError(
        "a lazy configuration names an object that is not allowed",
        got=shown(path),
        expected=f"a class of {lazy_python.ROOT} that detexport has, or of torch.nn or torch.optim",
        remedy="if the package is yours, import it with --with",
    )
