"""YAML of plain values, and the arithmetic that some published configurations hold; nothing is executed."""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

import yaml

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    # In float64: a power of integers could take the machine's memory.
    ast.Pow: math.pow,
    ast.USub: operator.neg,
}
LARGEST = 1e9
"""No anchor, threshold or size is greater."""


def load(text: str) -> Any:
    """The value of a YAML document.

    Beyond plain YAML it reads tuples, and the tag ``!!python/object/apply:eval`` of an expression of numbers,
    lists and comprehensions over lists: detectron2's RetinaNet configurations compute their anchors so.

    Raises:
        yaml.YAMLError: the text is not YAML, or holds another tag or expression.
    """
    return yaml.load(text, _Loader)  # the loader is a safe one


def compute(expression: str) -> Any:
    """The value of an expression of numbers, lists, ``+ - * / **`` and list comprehensions.

    Raises:
        ValueError: it is anything else.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, {})
    except (SyntaxError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{expression!r} cannot be computed: {error}") from error


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number) if abs(number) <= LARGEST:
            return number
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return _number(OPERATORS[type(op)](_number(_value(left, names)), _number(_value(right, names))))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, names))
        case ast.ListComp(elt=part, generators=[ast.comprehension(ast.Name(id=name), iter=of, ifs=[])]):
            return [_value(part, {**names, name: item}) for item in _value(of, names)]
    raise ValueError(f"{ast.unparse(node)!r} is not arithmetic of numbers and lists")


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{str(value)[:40]} is not a number of at most {LARGEST:g}")
    return value


class _Loader(yaml.SafeLoader):
    pass


def _computed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    try:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise ValueError("one expression was expected")
        return compute(arguments[0])
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _computed)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
