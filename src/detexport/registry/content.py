"""The content of a registered version, and its digest, by which the version is found again."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
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
from detexport.system.versions import pinned

PACKAGE = Path(detexport.__file__).parent
PYFUNC = PACKAGE / "registry" / "pyfunc.py"
# Distributions whose name differs from that of the module they install.
DISTRIBUTIONS = {"PIL": "pillow"}


@dataclass(frozen=True)
class Content:
    """Everything that determines the outputs of a registered version.

    The artifact alone does not: the same file returns other outputs with another runtime, other options,
    other code around the graph or other package versions. So the digest covers them all, and two versions
    with the same digest return the same outputs.

    Args:
        artifact: the exported model.
        runtime: the target's runtime, ``_target_`` and options.
    """

    artifact: Artifact
    runtime: dict[str, Any]

    @property
    def contract(self) -> Contract:
        """The graph's inputs and outputs."""
        return self.artifact.contract

    @cached_property
    def sources(self) -> tuple[Path, ...]:
        """The files of the package that a prediction imports."""
        return tuple(sorted(import_closure(PYFUNC, module_file(self.runtime["_target_"].rpartition(".")[0]))))

    @cached_property
    def code(self) -> dict[str, str]:
        """SHA-256 digest of each source, by its path in the package."""
        return {path.relative_to(PACKAGE).as_posix(): sha256_file(path) for path in self.sources}

    @cached_property
    def requirements(self) -> tuple[str, ...]:
        """The exact versions of the packages that a prediction imports, as pip writes them."""
        names = {name for path in self.sources for name in imported(path)}
        modules = {name.partition(".")[0] for name in names} - {PACKAGE.name, *sys.stdlib_module_names}
        return tuple(sorted(pin(module) for module in modules))

    @cached_property
    def sha256(self) -> str:
        """The digest by which a version with this content is found."""
        signature = build_signature(self.contract).to_dict()
        return content_digest(self.artifact, self.runtime, self.code, self.requirements, signature)

    def write_target(self, path: Path) -> None:
        """Write the JSON file that the pyfunc reads: the runtime and the digests of the code."""
        write_json(path, {"runtime": self.runtime, "code": self.code})


def content_digest(
    artifact: Artifact,
    runtime: Mapping[str, Any],
    code: Mapping[str, str],
    requirements: Iterable[str],
    signature: Mapping[str, Any],
) -> str:
    """Return the digest of everything that determines a version's outputs.

    Args:
        artifact: the exported model.
        runtime: the target's runtime, ``_target_`` and options.
        code: SHA-256 digest of each source, by its path in the package.
        requirements: exact versions of packages, as pip writes them.
        signature: MLflow's signature, as its ``to_dict`` returns it.
    """
    return sha256_json(
        {
            "artifact": artifact.sha256,
            "runtime": runtime,
            "code": code,
            "requirements": sorted(requirements),
            "signature": signature,
        }
    )


def import_closure(*roots: Path) -> set[Path]:
    """Return the files of the package that importing ``roots`` runs, without importing them.

    Only imports at the top of a module count, not those inside functions.
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
    """Yield the dotted names that a module imports at its top; ``a.b.c`` for ``from a.b import c``."""
    for node in _top_level(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of a module, also those within ``with`` and ``try`` (optional dependencies)."""
    for node in body:
        if isinstance(node, ast.With | ast.Try):
            yield from _top_level(node.body)
        else:
            yield node


def _files_of(name: str) -> Iterator[Path]:
    """Yield the files of a module and of the packages that contain it; none if it is not of this package."""
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
    """Return the file of a module of the package.

    Raises:
        ConfigError: it is not a module of the package.
    """
    for path in list(_files_of(name))[-1:]:
        if path.stem == name.rpartition(".")[2]:
            return path
    raise ConfigError(
        f"the runtime's module {name} cannot be stored with a registered model",
        got=name,
        expected=f"a module of {PACKAGE.name}, whose code is logged with the model",
        remedy="correct the target's runtime._target_",
    )


def pin(module: str) -> str:
    """Return a module's installed distribution as a pip requirement, such as ``numpy==2.4.0``."""
    try:
        return pinned(DISTRIBUTIONS.get(module, module))
    except metadata.PackageNotFoundError:
        # A distribution that replaces another, such as onnxruntime-gpu.
        return pinned(metadata.packages_distributions()[module][0])
