"""YAML of plain values, and the arithmetic in some published configurations; no code is executed.

Work and memory are bounded: the values that aliases repeat are counted before they are built, and the
operations of an expression before they are executed.
"""

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

import yaml

from detexport.errors import shown

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    # In float64: a power of integers could exhaust the memory.
    ast.Pow: math.pow,
    ast.USub: operator.neg,
}
LARGEST = 1e9
"""Limit of the magnitude of numbers; anchors, thresholds and sizes are smaller."""
LONGEST_EXPRESSION = 4000
MOST_OPERATIONS = 10_000
"""Limit per expression; computing anchors needs some dozens."""
MOST_VALUES = 100_000
"""Limit of the values of a document with all aliases expanded."""


def load(text: str, kind: "type[Loader] | None" = None) -> Any:
    """Load a YAML document.

    Apart from plain YAML it accepts tuples, and the tag ``!!python/object/apply:eval`` with an expression of
    numbers, lists and list comprehensions, which computes the anchors in detectron2's RetinaNet
    configurations.

    Args:
        text: the document.
        kind: loader class, with constructors of further tags.

    Raises:
        yaml.YAMLError: the text is not YAML, has another tag or expression, or is too deep or too large.
    """
    loader = (kind or Loader)(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError:
        raise
    except RecursionError as error:
        raise yaml.YAMLError("its brackets or aliases are nested too deeply") from error
    except Exception as error:  # a value does not fit its tag, such as an invalid date
        raise yaml.YAMLError(f"a value does not fit its type: {shown(str(error))}") from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the values of a node with all aliases expanded.

    Args:
        node: of a document.
        counts: counts of visited nodes by identity; -1 while a node is being counted.
    """
    if id(node) in counts:
        if counts[id(node)] < 0:
            raise yaml.YAMLError("an alias refers to a node that it is a part of")
        return counts[id(node)]
    counts[id(node)] = -1
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    counts[id(node)] = 1 + sum(_count(child, counts) for child in children)
    if counts[id(node)] > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases expand to more than {MOST_VALUES} values")
    return counts[id(node)]


def compute(expression: str) -> Any:
    """Evaluate an expression of numbers, lists, ``+ - * / **`` and list comprehensions.

    Raises:
        ValueError: the expression has another form, or needs more than ``MOST_OPERATIONS``.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError(f"an expression has more than {LONGEST_EXPRESSION} characters: {shown(expression)}")
    try:
        return _Calculation(MOST_OPERATIONS).value(ast.parse(expression.strip(), mode="eval").body, {})
    # The parser raises MemoryError for deep nesting.
    except (SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shown(expression)} cannot be computed: {type(error).__name__} {error}") from error


class _Calculation:
    """Evaluation of one expression.

    Args:
        left: remaining number of operations; each creates one value at most.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"an expression needs more than {MOST_OPERATIONS} operations")

    def value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        """Evaluate a node of the expression with the variables ``names``."""
        self._spend()
        match node:
            case ast.Constant(value=int() | float() as number) if abs(number) <= LARGEST:
                return number
            case ast.Name(id=name) if name in names:
                return self._copy(names[name])
            case ast.List(elts=entries) | ast.Tuple(elts=entries):
                return [self.value(entry, names) for entry in entries]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                first, second = _number(self.value(left, names)), _number(self.value(right, names))
                return _number(OPERATORS[type(op)](first, second))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self.value(operand, names))
            case ast.ListComp(elt=body, generators=[ast.comprehension(ast.Name(id=name), iter=of, ifs=[])]):
                return [self.value(body, {**names, name: item}) for item in self.value(of, names)]
        raise ValueError(f"{shown(ast.unparse(node))} is not arithmetic of numbers and lists")

    def _copy(self, value: Any) -> Any:
        """Copy a value and count its entries as operations, which bounds lists of shared lists."""
        self._spend()
        return [self._copy(entry) for entry in value] if isinstance(value, list) else value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{shown(value)} is not a number of at most {LARGEST:g}")
    return value


class Loader(yaml.SafeLoader):
    """Loader of plain values."""


def _computed(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    arguments = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    try:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise ValueError("expected one expression")
        return compute(arguments[0])
    except ValueError as error:
        raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []


Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _computed)
Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)
