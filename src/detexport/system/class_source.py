"""Read a class of detexport from its source, since importing it takes seconds and needs its packages."""

import ast
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


@cache
def class_body(path: str) -> tuple[ast.stmt, ...]:
    """Return the statements in the body of a class, given by its dotted path."""
    module, _, name = path.rpartition(".")
    source = _ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    (node,) = [one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == name]
    return tuple(node.body)


def class_attribute(path: str, name: str) -> Any:
    """Return the literal that a class, given by its dotted path, assigns to an attribute."""
    (value,) = [
        one.value
        for one in class_body(path)
        if isinstance(one, ast.Assign) and [ast.unparse(target) for target in one.targets] == [name]
    ]
    return ast.literal_eval(value)


def required_packages(path: str) -> tuple[str, ...]:
    """Return the class attribute ``packages``, the modules of extras that a class needs."""
    packages: tuple[str, ...] = class_attribute(path, "packages")
    return packages
