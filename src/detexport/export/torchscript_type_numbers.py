"""Names of the types in a TorchScript file, independent of what the process compiled before.

TorchScript adds a counter of the process to a name that exists already, as in
``__torch__.torch.nn.modules.conv.___torch_mangle_41.Conv2d``: a second export of a model would have other
bytes than the first. Here every type has such a number, counted in the order of the model.
"""

import pickletools
import re
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

NUMBER = re.compile(r"(?<=___torch_mangle_)\d+")


def take_plain_names(module: nn.Module) -> None:
    """Reserve the plain names, so that every type that ``module`` is compiled to gets a number.

    Types without a number share a file, and what torch writes to it depends on all of them.
    """
    for kind in {type(part) for part in module.modules()}:
        if torch.jit._state._python_cu.get_class(torch._jit_internal._qualified_name(kind)) is None:
            torch._C.ConcreteModuleTypeBuilder(kind).build()  # type: ignore[attr-defined] # in no stub


def renumber_types(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Renumber the types of an archive in the order in which its values and their code name them.

    Args:
        members: code (``<module>.py``) and pickles (``<name>.pkl``) of an archive by name.

    Returns:
        The same code and values; members are renamed with the types.
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
        for _, _, text in _strings(content):
            visit(text)
    for name in sorted(code):
        visit(name + code[name])

    def renumbered(text: str) -> str:
        return NUMBER.sub(lambda match: numbers[match[0]], text)

    return {
        **{renumbered(name): renumbered(text).encode() for name, text in code.items()},
        **{name: _replace_strings(content, renumbered) for name, content in pickles.items()},
    }


def _strings(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield position, opcode and text of each string in a pickle that may name a type.

    GLOBAL names the type of a value; a BINUNICODE string may name that of a list's elements.
    """
    for opcode, value, position in pickletools.genops(content):
        if position is not None and opcode.name in ("GLOBAL", "BINUNICODE"):
            yield position, opcode.name, str(value)


def _replace_strings(content: bytes, replaced: Callable[[str], str]) -> bytes:
    """Return a pickle with the names of its types replaced."""
    parts: list[bytes] = []
    end = 0
    for position, opcode, text in _strings(content):
        parts += content[end:position], _encoded(opcode, replaced(text))
        end = position + len(_encoded(opcode, text))
    return b"".join([*parts, content[end:]])


def _encoded(opcode: str, text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    if opcode == "GLOBAL":
        return b"c" + encoded.replace(b" ", b"\n") + b"\n"
    return b"X" + len(encoded).to_bytes(4, "little") + encoded
