"""YAML of plain values, and the arithmetic that some published configurations hold; nothing is executed.

Work and memory are bounded by what is counted before it is done: the values that aliases repeat, and the
operations of an expression.
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
    # In float64: a power of integers could take the machine's memory.
    ast.Pow: math.pow,
    ast.USub: operator.neg,
}
LARGEST = 1e9
"""No anchor, threshold or size is greater."""
LONGEST_EXPRESSION = 4000
MOST_OPERATIONS = 10_000
"""An expression of anchors takes some dozens."""
MOST_VALUES = 100_000
"""Values of a document where every alias stands for all that it repeats."""


def load(text: str) -> Any:
    """The value of a YAML document.

    Beyond plain YAML it reads tuples, and the tag ``!!python/object/apply:eval`` of an expression of numbers,
    lists and comprehensions over lists: detectron2's RetinaNet configurations compute their anchors so.

    Raises:
        yaml.YAMLError: the text is not YAML, holds another tag or expression, or is too deep or too large.
    """
    loader = _Loader(text)
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
    except Exception as error:  # a value that its tag does not fit, such as a date that is none
        raise yaml.YAMLError(f"a value does not fit its type: {shown(str(error))}") from error
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """Values below a node.

    Args:
        node: of a document.
        counts: those of the nodes that were seen, by identity; -1 while a node is being counted.
    """
    if id(node) in counts:
        if counts[id(node)] < 0:
            raise yaml.YAMLError("an alias stands for what it is a part of")
        return counts[id(node)]
    counts[id(node)] = -1
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    counts[id(node)] = 1 + sum(_count(part, counts) for part in parts)
    if counts[id(node)] > MOST_VALUES:
        raise yaml.YAMLError(f"it stands for more than {MOST_VALUES} values")
    return counts[id(node)]


def compute(expression: str) -> Any:
    """The value of an expression of numbers, lists, ``+ - * / **`` and list comprehensions.

    Raises:
        ValueError: it is anything else, or takes more than ``MOST_OPERATIONS``.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError(f"an expression has more than {LONGEST_EXPRESSION} characters: {shown(expression)}")
    try:
        return _Calculation(MOST_OPERATIONS).value(ast.parse(expression.strip(), mode="eval").body, {})
    # The parser answers deep nesting with a MemoryError.
    except (SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{shown(expression)} cannot be computed: {type(error).__name__} {error}") from error


class _Calculation:
    """One expression being computed.

    Args:
        left: operations that it may yet take; each makes one value at most.
    """

    def __init__(self, left: int) -> None:
        self.left = left

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"an expression takes more than {MOST_OPERATIONS} operations")

    def value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        """The value of a part of the expression, where ``names`` have values."""
        self._spend()
        match node:
            case ast.Constant(value=int() | float() as number) if abs(number) <= LARGEST:
                return number
            case ast.Name(id=name) if name in names:
                return self._copy(names[name])
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self.value(part, names) for part in parts]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                first, second = _number(self.value(left, names)), _number(self.value(right, names))
                return _number(OPERATORS[type(op)](first, second))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -_number(self.value(operand, names))
            case ast.ListComp(elt=part, generators=[ast.comprehension(ast.Name(id=name), iter=of, ifs=[])]):
                return [self.value(part, {**names, name: item}) for item in self.value(of, names)]
        raise ValueError(f"{shown(ast.unparse(node))} is not arithmetic of numbers and lists")

    def _copy(self, value: Any) -> Any:
        """A value of its own, so that lists of one list are as large as they look."""
        self._spend()
        return [self._copy(part) for part in value] if isinstance(value, list) else value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ValueError(f"{shown(value)} is not a number of at most {LARGEST:g}")
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
