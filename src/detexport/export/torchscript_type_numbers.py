"""Names of the types in a TorchScript file, made independent of what the process compiled before.

A type whose name is taken is told from the others by a count of the process, as in
``__torch__.torch.nn.modules.conv.___torch_mangle_41.Conv2d``: the second export of a model would not give the
bytes of the first. Here every type gets such a number, and is counted in the order in which the model has it.
"""

import pickletools
import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

NUMBER = re.compile(r"(?<=___torch_mangle_)\d+")


def take_plain_names(module: nn.Module) -> None:
    """See that none of the types which ``module`` is compiled to gets a name without a number.

    Those without one share a file with others, and what torch writes into it depends on them all.
    """
    for kind in {type(part) for part in module.modules()}:
        if torch.jit._state._python_cu.get_class(torch._jit_internal._qualified_name(kind)) is None:
            torch._C.ConcreteModuleTypeBuilder(kind).build()  # type: ignore[attr-defined] # in no stub


def renumber_types(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Renumber the types of an archive by the order in which its values, and the code of these, name them.

    Args:
        members: code (``<module>.py``) and pickles (``<name>.pkl``) of an archive by name.

    Returns:
        The same code and values; the names of the members follow those of the types.
    """
    pickles = {name: content for name, content in members.items() if name.endswith(".pkl")}
    code = {name: content.decode() for name, content in members.items() if name not in pickles}
    code_of = {number: text for name, text in code.items() for number in NUMBER.findall(name)}
    numbers: dict[str, str] = {}

    def visit(text: str) -> None:
        for number in NUMBER.findall(text):
            if number not in numbers:
                numbers[number] = str(len(numbers))
                visit(code_of.get(number, ""))

    for content in pickles.values():
        for _, _, text in _texts(content):
            visit(text)
    for name in sorted(code):
        visit(name + code[name])

    def renumbered(text: str) -> str:
        return NUMBER.sub(lambda match: numbers[match[0]], text)

    return {
        **{renumbered(name): renumbered(text).encode() for name, text in code.items()},
        **{name: _replace_texts(content, renumbered) for name, content in pickles.items()},
    }


def _texts(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Where a pickle names types, by which opcode: a value's, or, in a text, that of a list's elements."""
    for opcode, value, position in pickletools.genops(content):
        if position is not None and opcode.name in ("GLOBAL", "BINUNICODE"):
            yield position, opcode.name, str(value)


def _replace_texts(content: bytes, replaced: Callable[[str], str]) -> bytes:
    """A pickle with other names of types in it."""
    parts: list[bytes] = []
    end = 0
    for position, opcode, text in _texts(content):
        parts += content[end:position], _encoded(opcode, replaced(text))
        end = position + len(_encoded(opcode, text))
    return b"".join([*parts, content[end:]])


def _encoded(opcode: str, text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    if opcode == "GLOBAL":
        return b"c" + encoded.replace(b" ", b"\n") + b"\n"
    return b"X" + len(encoded).to_bytes(4, "little") + encoded
