"""Count the names of detectron2's API documentation that exist here, with the documented arguments."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any

import yaml
from typer import Option

from detexport.detectron2_names import own_path, refusal
from detexport.system.script import run

NAMES = Path(__file__).with_name("detectron2_names.yaml")
VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


@dataclass(frozen=True)
class DocumentedName:
    """A name of the documentation.

    Args:
        page: the page that documents it.
        module: the module that users import it from, such as ``detectron2.layers``.
        name: its name in the module; ``Class.member`` for a member of a class.
        arguments: the documented arguments; None if the page gives none.
    """

    page: str
    module: str
    name: str
    arguments: tuple[str, ...] | None

    @property
    def path(self) -> str:
        """Dotted path."""
        return f"{self.module}.{self.name}"

    def is_here(self) -> bool:
        """Return whether the name can be imported from this project."""
        return find(self.module, self.name) is not None

    def has_arguments(self) -> bool:
        """Return whether the object that is here accepts the documented arguments by name."""
        found = find(self.module, self.name)
        return found is not None and _accepts(found, self.arguments or ())


@cache
def find(module: str, name: str) -> Any:
    """Return the object that is here under a module and name of detectron2; None if there is none."""
    try:
        return reduce(getattr, name.split("."), importlib.import_module(own_path(module)))
    except (ImportError, AttributeError):
        return None


def documented_names(path: Path = NAMES) -> Iterator[DocumentedName]:
    """Yield the names of the data file."""
    for page, modules in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for module, entries in modules.items():
            for entry in entries:
                name, bracket, arguments = entry.removesuffix(")").partition("(")
                names = tuple(one.strip() for one in arguments.split(",") if one.strip())
                yield DocumentedName(page, module, name, names if bracket else None)


def _accepts(found: Any, arguments: tuple[str, ...]) -> bool:
    """Return whether an object has these arguments, those that may be positional in this order."""
    try:
        parameters = _parameters(found)
    except (TypeError, ValueError):
        return not arguments
    positional = [one.name for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    in_order = [name for name in positional if name in arguments]
    return {one.name for one in parameters} >= set(arguments) and in_order == [
        name for name in arguments if name in positional
    ]


def _parameters(found: Any) -> list[inspect.Parameter]:
    """Return the parameters of an object; of a class that passes keywords on, those of its parents, too."""
    own = list(inspect.signature(found).parameters.values())
    if inspect.isclass(found) and {one.kind for one in own} == VARIADIC:  # of a __new__ that chooses a class
        own = list(inspect.signature(found.__init__).parameters.values())[1:]
    if not inspect.isclass(found) or own[-1:] == [] or own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        return own
    inherited = [one for parent in found.__bases__ if parent is not object for one in _parameters(parent)]
    names = {one.name for one in own}
    return [*own[:-1], *(one for one in inherited if one.name not in names)]


def main(missing: Annotated[bool, Option(help="List the names that are not here.")] = False) -> None:
    """Print the counts by page, and why the other names are not here.

    Counted are names, and the names and order of documented arguments. Default values are not recorded.
    """
    names = list(documented_names())
    print(f"{'page':<16}{'names':>7}{'here':>7}{'as documented':>15}{'refused':>9}")
    for page in [*dict.fromkeys(one.page for one in names), ""]:
        chosen = [one for one in names if page in ("", one.page)]
        here = sum(one.is_here() for one in chosen)
        same = sum(one.has_arguments() for one in chosen)
        refused = sum(not one.is_here() and refusal(one.path) is not None for one in chosen)
        share = f"  {here / len(chosen):.1%}"
        print(
            f"{page or 'all':<16}{len(chosen):>7}{here:>7}{same:>15}{refused:>9}{share if not page else ''}"
        )
    if missing:
        for one in names:
            if not one.is_here():
                print(f"{one.path}: {refusal(one.path) or 'missing'}")
            elif not one.has_arguments():
                print(f"{one.path}: other arguments than {', '.join(one.arguments or ())}")


if __name__ == "__main__":
    run(main)
