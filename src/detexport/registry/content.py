"""What a registered version consists of, and the digest that is its address."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import detexport
from detexport.artifact import Artifact
from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.registry.signature import build_signature
from detexport.system.digests import sha256_file, sha256_json
from detexport.system.files import write_json

PACKAGE = Path(detexport.__file__).parent
PYFUNC = PACKAGE / "registry" / "pyfunc.py"
# Distributions that are not called as the module that they install.
DISTRIBUTIONS = {"PIL": "pillow"}


@dataclass(frozen=True)
class Content:
    """All that a user of a registered version gets.

    The artifact alone does not say what a version answers: the same file gives other answers with another
    runtime, other options, other code around the graph or other versions of what runs it. So the address of a
    version covers them all, and a version that exists already is one that answers the same.

    Args:
        artifact: the exported model.
        runtime: the target's runtime, ``_target_`` and options.
    """

    artifact: Artifact
    runtime: dict[str, Any]

    @property
    def contract(self) -> Contract:
        """What the graph takes and gives."""
        return self.artifact.contract

    @cached_property
    def sources(self) -> tuple[Path, ...]:
        """The files of the package that a prediction imports."""
        return tuple(sorted(import_closure(PYFUNC, module_file(self.runtime["_target_"].rpartition(".")[0]))))

    @cached_property
    def code(self) -> dict[str, str]:
        """Digest of each source, by its path in the package."""
        return {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in self.sources}

    @cached_property
    def requirements(self) -> tuple[str, ...]:
        """The exact versions of the packages that a prediction imports, as pip writes them."""
        names = {name for path in self.sources for name in imported(path)}
        modules = {name.partition(".")[0] for name in names} - {PACKAGE.name, *sys.stdlib_module_names}
        return tuple(sorted(pin(module) for module in modules))

    @cached_property
    def sha256(self) -> str:
        """The version's address."""
        return sha256_json(
            {
                "artifact": self.artifact.sha256,
                "runtime": self.runtime,
                "code": self.code,
                "requirements": self.requirements,
                "signature": build_signature(self.contract).to_dict(),
            }
        )

    def write_target(self, path: Path) -> None:
        """Write what the pyfunc has to know beside the artifact: its runtime, and its code's digests."""
        write_json(path, {"runtime": self.runtime, "code": self.code})


def import_closure(*roots: Path) -> set[Path]:
    """Files of the package that run when ``roots`` are imported, without importing them.

    Only imports at the top of a module count: what a function imports is for those who call it.
    """
    found: set[Path] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for name in imported(path) for file in _files_of(name)]
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a module imports at its top; ``a.b.c`` for ``from a.b import c``."""
    for node in _top_level(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, also those within ``with`` and ``try`` (optional dependencies)."""
    for node in body:
        if isinstance(node, ast.With | ast.Try):
            yield from _top_level(node.body)
        else:
            yield node


def _files_of(name: str) -> Iterator[Path]:
    """The file of a module of the package and of all packages that it lies in; none for a foreign name."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return
    for length in range(1, len(parts) + 1):
        path = PACKAGE.joinpath(*parts[1:length])
        if (path / "__init__.py").is_file():
            yield path / "__init__.py"
        elif path.with_suffix(".py").is_file():
            yield path.with_suffix(".py")


def module_file(name: str) -> Path:
    """The file of a module of the package.

    Raises:
        ConfigError: it is not a module of the package.
    """
    for path in list(_files_of(name))[-1:]:
        if path.stem == name.rpartition(".")[2]:
            return path
    raise ConfigError(
        f"the runtime's module {name} cannot travel with a registered model",
        got=name,
        expected=f"a module of {PACKAGE.name}, whose code is stored with the model",
        remedy="correct the target's runtime._target_",
    )


def pin(module: str) -> str:
    """The requirement of the installed distribution that a module comes from, such as ``numpy==2.4.0``."""
    name = DISTRIBUTIONS.get(module, module)
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        # A distribution that stands in for another, such as onnxruntime-gpu.
        name = metadata.packages_distributions()[module][0]
        version = metadata.version(name)
    # A local label (+cpu, +cu130) names a build that no index but its own holds.
    return f"{name}=={version.partition('+')[0]}"
