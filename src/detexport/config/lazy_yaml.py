"""YAML of LazyConfig: its Python tags become plain nodes, which only ``instantiate`` resolves.

No code is executed: a name stays a name. The nodes are ``{NAME: path}`` for a class or function, ``{PARTIAL:
path or node, ...}`` for a ``functools.partial``, and ``{TARGET: path, ...}`` for a dataclass.

An interpolation only refers to another key: a resolver could read the environment, and a string of several
references could double with each of them.
"""

import re
from typing import Any

import yaml

from detexport.config import plain_yaml
from detexport.errors import shown

TARGET, NAME, PARTIAL, ARGUMENTS = "_target_", "_name_", "_partial_", "_args_"
_PYTHON = "tag:yaml.org,2002:python/"
_PARTIAL_TAG = f"{_PYTHON}object/apply:functools.partial"
DEEPEST = 50
"""Limit of the depth of a document; configurations of models have about 10 levels."""
_REFERENCE = re.compile(r"[^$]*\$\{[^${}:]+\}[^$]*")


def load(text: str) -> Any:
    """Load a document; ``plain_yaml.load`` describes further limits.

    Raises:
        yaml.YAMLError: the text is not YAML, has another tag, is too deep or too large, or has an
            interpolation that is more than one reference to a key.
    """
    tree = plain_yaml.load(text, _Loader)
    _check(tree, 1)
    return tree


def _check(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise yaml.YAMLError(f"its values are nested more than {DEEPEST} levels deep")
    if isinstance(value, str) and "${" in value and not _REFERENCE.fullmatch(value):
        raise yaml.YAMLError(f"{shown(value)} is more than one reference to a key, such as ${{model.width}}")
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    for part in parts if isinstance(parts, list | tuple) else ():
        _check(part, depth + 1)


def dump(tree: Any) -> str:
    """Return a document that ``load`` and detectron2 read.

    Args:
        tree: plain values and nodes as ``load`` returns them.
    """
    return yaml.dump(tree, Dumper=_Dumper, default_flow_style=None, width=100, sort_keys=True)


class _Loader(plain_yaml.Loader):
    pass


def _name(loader: yaml.SafeLoader, path: str, node: yaml.Node) -> Any:
    return {NAME: path}


def _dataclass(loader: yaml.SafeLoader, path: str, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, f"{path} has no fields", node.start_mark)
    fields = loader.construct_mapping(node, deep=True)
    return {TARGET: path, **{key: value for key, value in fields.items() if value is not None}}


def _partial(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """Read the state of a ``functools.partial``: (function, args, keywords, attributes)."""
    fields = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    function = next(iter(fields.get("args") or ()), None)
    state: Any = fields.get("state") or (function, (), {}, None)
    if function is None or len(state) != 4 or state[3]:
        raise yaml.constructor.ConstructorError(None, None, "not a functools.partial", node.start_mark)
    return {PARTIAL: function, ARGUMENTS: list(state[1] or ()), **(state[2] or {})}


_Loader.add_multi_constructor(f"{_PYTHON}name:", _name)
_Loader.add_multi_constructor(f"{_PYTHON}object:", _dataclass)
_Loader.add_constructor(_PARTIAL_TAG, _partial)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write no aliases: repeat a value at each occurrence."""
        return True

    def represent_dict(self, data: Any) -> Any:
        """Write a node as its tag, any other mapping as it is."""
        if set(data) == {NAME}:
            return self.represent_scalar(f"{_PYTHON}name:{data[NAME]}", "")
        if PARTIAL in data:
            function, arguments = data[PARTIAL], tuple(data.get(ARGUMENTS, ()))
            keywords = {key: value for key, value in data.items() if key not in (PARTIAL, ARGUMENTS)}
            state = (function, arguments, keywords, None)
            return self.represent_mapping(_PARTIAL_TAG, {"args": [function], "state": state})
        return self.represent_mapping("tag:yaml.org,2002:map", data)

    def represent_python_tuple(self, data: tuple[Any, ...]) -> yaml.Node:
        """Write a tuple, as in the state of a partial."""
        return self.represent_sequence(f"{_PYTHON}tuple", data)


_Dumper.add_representer(dict, _Dumper.represent_dict)
_Dumper.add_representer(tuple, _Dumper.represent_python_tuple)
