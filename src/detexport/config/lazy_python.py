"""Execute lazy configurations written in Python, in a separate process that returns them as YAML."""

import ast
import builtins
import functools
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from detexport.config import lazy_yaml
from detexport.config.lazy_yaml import ARGUMENTS, NAME, PARTIAL, TARGET
from detexport.errors import ConfigError

TRUST = "DETEXPORT_TRUST_CONFIG"
"""The environment variable that allows the execution of configurations in Python."""
PACKAGE = "_lazy_config"
"""Prefix of the packages that stand for the folders above a configuration, for its relative imports."""
MARK = "\0"
"""Marks the start of the YAML in the output of the process, after what the configuration printed."""
OWN, ROOT = __name__.partition(".")[0], "detectron2"
"""This package, and the package name that files have in its place."""


def node(tree: Mapping[str, Any]) -> Any:
    """Return a mapping as a node of OmegaConf whose values may be any object."""
    from omegaconf import DictConfig

    return DictConfig(content=dict(tree), flags={"allow_objects": True})


def execute(path: Path, *, trust: bool) -> str:
    """Execute a configuration in a separate process, and return its public keys as YAML.

    Args:
        path: the ``.py`` file.
        trust: whether the user trusts the code; otherwise ``DETEXPORT_TRUST_CONFIG`` decides.

    Raises:
        ConfigError: the code is not trusted or fails, or a value cannot be written as YAML.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration {path}",
            got="no such file",
            expected="a .py or .yaml file",
            remedy="correct the path",
        )
    if not trust and os.environ.get(TRUST) != "1":
        raise ConfigError(
            f"{path} is Python code, which is executed only if you trust it",
            got="no --trust-config",
            expected="YAML, as LazyConfig.save writes it, or a trusted file",
            remedy=f"read the file, then give --trust-config or trust=True, or set {TRUST}=1",
        )
    command = [sys.executable, "-c", f"import {__name__} as child; child.main()", str(path)]
    environment = {**os.environ, TRUST: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    _, mark, text = done.stdout.rpartition(MARK)
    if done.returncode or not mark:
        lines = done.stderr.strip().splitlines()
        raise ConfigError(
            f"the configuration {path} cannot be executed",
            got=lines[-1] if lines else f"exit code {done.returncode} before its end",
            expected="a file that defines LazyCall nodes",
            remedy="correct the file, or make the packages that it imports available",
        )
    return text


def plain(value: Any, key: str = "cfg") -> Any:
    """Return a configuration as plain values and the nodes of ``lazy_yaml``; interpolations stay as they are.

    Args:
        value: the configuration.
        key: its path, for errors.

    Raises:
        ConfigError: a value cannot be represented.
    """
    from omegaconf import DictConfig, ListConfig

    if isinstance(value, DictConfig):
        kind = value._metadata.object_type
        if isinstance(kind, type) and is_dataclass(kind):
            return {TARGET: public_path(kind), **_items(value, key)}
        return _items(value, key)
    if isinstance(value, ListConfig):
        return [plain(value._get_node(index), f"{key}[{index}]") for index in range(len(value))]
    if hasattr(value, "_value") and hasattr(value, "_metadata"):  # a leaf of OmegaConf
        return plain(value._value(), key)
    if isinstance(value, Mapping):
        return {str(name): plain(one, f"{key}.{name}") for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one, f"{key}[{index}]") for index, one in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        values = {field.name: getattr(value, field.name) for field in fields(value)}
        return {TARGET: public_path(type(value)), **plain(values, key)}
    if isinstance(value, functools.partial):
        function = plain(value.func, key)
        return {PARTIAL: function, ARGUMENTS: plain(value.args, key), **plain(value.keywords, key)}
    if isinstance(value, type) or inspect.isroutine(value):
        if "<lambda>" in getattr(value, "__qualname__", ""):
            return plain(_partial_of(value, key), key)
        return {NAME: public_path(value)}
    raise ConfigError(
        f"{key} cannot be written as YAML",
        got=f"a {type(value).__name__}",
        expected="plain values, classes and functions, functools.partial, and LazyCall nodes",
        remedy="write the call that creates it as LazyCall(...)(...)",
    )


def _items(value: Any, key: str) -> Any:
    if value._content is None or isinstance(value._content, str):  # None, or an interpolation
        return value._content
    items = {}
    for name, one in value._content.items():
        content = one._value() if hasattr(one, "_value") and not hasattr(one, "_content") else one
        is_target = name == TARGET and callable(content)
        items[str(name)] = public_path(content) if is_target else plain(one, f"{key}.{name}")
    return items


def public_path(found: Any) -> str:
    """Return the dotted path of a class or function, under detectron2's root if it is of this package."""
    if isinstance(found, dict):
        return str(found[NAME])
    module, name = found.__module__, found.__qualname__
    parent = module.rpartition(".")[0]
    first = name.partition(".")[0]
    if module.startswith(f"{OWN}."):
        if getattr(sys.modules.get(parent), first, None) is getattr(sys.modules[module], first, found):
            module = parent
        module = module.replace(OWN, ROOT, 1)
    return f"{module}.{name}"


def dump(cfg: Any) -> str:
    """Return a configuration as YAML: see ``plain``."""
    return lazy_yaml.dump(plain(cfg))


def _partial_of(function: Callable[..., Any], key: str) -> functools.partial[Any]:
    """Return the partial that equals ``lambda c: call(..., c, ...)``.

    Raises:
        ConfigError: the function has another form.
    """
    found = _lambda_node(function)
    body = found.body if found else None
    parameters = [one.arg for one in found.args.args] if found else []
    if not isinstance(body, ast.Call) or len(parameters) != 1:
        raise _no_partial(key)
    variables = inspect.getclosurevars(function)
    names = {**variables.builtins, **variables.globals, **variables.nonlocals}

    def evaluated(expression: ast.expr) -> Any:
        if any(isinstance(one, ast.Name) and one.id == parameters[0] for one in ast.walk(expression)):
            raise _no_partial(key)
        return eval(compile(ast.Expression(expression), key, "eval"), names)

    positions = [
        index for index, one in enumerate(body.args) if isinstance(one, ast.Name) and one.id == parameters[0]
    ]
    if len(positions) != 1:
        raise _no_partial(key)
    target = evaluated(body.func)
    before, after = body.args[: positions[0]], body.args[positions[0] + 1 :]
    named = list(inspect.signature(target).parameters)[positions[0] + 1 :]
    keywords = {name: evaluated(one) for name, one in zip(named, after, strict=False)}
    keywords |= {one.arg: evaluated(one.value) for one in body.keywords if one.arg}
    return functools.partial(target, *map(evaluated, before), **keywords)


def _lambda_node(function: Callable[..., Any]) -> ast.Lambda | None:
    """Return the source of a lambda as a tree."""
    code = function.__code__
    places = [place for place in code.co_positions() if place[0] and place[2] is not None and place[3]]
    try:
        tree = ast.parse(Path(code.co_filename).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    return next(
        (
            one
            for one in ast.walk(tree)
            if isinstance(one, ast.Lambda)
            and any((one.body.lineno, one.body.col_offset) == (line, column) for line, _, column, _ in places)
        ),
        None,
    )


def _no_partial(key: str) -> ConfigError:
    return ConfigError(
        f"{key} cannot be written as YAML",
        got="a function without a name",
        expected="a lambda that calls a class with its argument, such as lambda c: LayerNorm(c, eps=1e-6)",
        remedy="use functools.partial, or a function of a package that --with imports",
    )


def _import_as_config(path: Path) -> ModuleType:
    """Execute a file as a module whose relative imports are files beside it, each executed again."""
    folders = list(reversed(path.resolve().parents))
    name = PACKAGE
    for depth, folder in enumerate(folders):
        name = PACKAGE if depth == 0 else f"{name}._{depth}"
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    ancestors = {one for one in sys.modules if one.partition(".")[0] == PACKAGE}
    original = builtins.__import__

    def importing(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        if level and str((globals or {}).get("__package__", "")).partition(".")[0] == PACKAGE:
            # So that a change of an imported node does not change it for another file.
            loaded = [one for one in sys.modules if one.partition(".")[0] == PACKAGE]
            for one in set(loaded) - ancestors:
                del sys.modules[one]
            module = original(name, globals, locals, fromlist, level)
            for attribute in fromlist or ():
                if type(getattr(module, attribute, None)) is dict:
                    setattr(module, attribute, node(getattr(module, attribute)))
            return module
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = importing
    spec = importlib.util.spec_from_file_location(f"{name}.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(
            f"{path} cannot be imported",
            got=f"the suffix {path.suffix!r}",
            expected="a .py file",
            remedy="rename the file",
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Execute the file that the first argument names; print its public nodes as YAML after ``MARK``."""
    path = Path(sys.argv[1])
    try:
        print(f"{MARK}{dump(node(_executed(path)))}", end="")
    except Exception as problem:
        sys.exit(" ".join(f"{type(problem).__name__}: {problem}".split()))


def _executed(path: Path) -> dict[str, Any]:
    """Return the public nodes of a configuration, by name."""
    from omegaconf import DictConfig, ListConfig

    # By name: only this process, which executes code written for detectron2, needs the alias.
    alias = importlib.import_module(f"{OWN}.detectron2_alias")
    alias.import_projects(os.environ.get("DETEXPORT_WITH", "").split())
    values = {
        name: value
        for name, value in vars(_import_as_config(path)).items()
        if not name.startswith("_") and isinstance(value, DictConfig | ListConfig | dict)
    }
    if not values:
        raise ConfigError(
            f"{path} defines no configuration",
            got="no public name that holds a node",
            expected="a name such as model",
            remedy="assign LazyCall nodes to public names",
        )
    return values
