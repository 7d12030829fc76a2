"""Write what other servers need: a Docker context, a Triton repository, a KServe manifest."""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact, read_verified
from detexport.conf_files import copy_package
from detexport.errors import ArtifactError, ConfigError, shown
from detexport.runtime import DEFAULT_ENGINES
from detexport.serving import triton
from detexport.serving.dockerfile import dockerfile, requirements
from detexport.serving.kserve import image_name, manifest
from detexport.system.atomic import atomic_dir
from detexport.system.extras import extra_imports
from detexport.system.files import write_json
from detexport.targets.component import Component
from detexport.targets.table import targets
from detexport.workflows.choose_runtime import asked_target
from detexport.workflows.load_detector import is_registered

PACKAGE = "package.json"
"""The file that marks a folder as a package."""
SHUTDOWN_S = 30
SERVER = Path("serving") / "server.py"


@dataclass(frozen=True)
class Packaged:
    """A package that was written.

    Args:
        name: the model's name.
        artifact: what it serves.
        without_triton: why there is no Triton repository; empty if there is one.
    """

    name: str
    artifact: Artifact
    without_triton: str


@dataclass(frozen=True)
class _Source:
    """What is packaged: the artifact, the code and the requirements, and the options of ``serve``."""

    folder: Path
    code: Path
    requirements: tuple[str, ...]
    python: str
    options: tuple[str, ...]


def package(source: str | Path, output: Path, *, name: str = "", target: str = "") -> Packaged:
    """Write a package; nothing in it names a registry or a path of this machine.

    A registered version brings its own requirements and its own code. A folder gets the installed ones.

    Args:
        source: an artifact's folder, or ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``.
        output: a new or empty folder, or a package to replace.
        name: the model's name; by default the registered name, or that of the folder.
        target: run the artifact as this target; by default as it was registered, or in its format's runtime.

    Raises:
        ArtifactError: the source is not an artifact, or was changed, or its code has no server.
        ConfigError: the output holds something else, or there is no such target.
        RegistryError: the MLflow store cannot be reached, or has no such model.
    """
    check_package(output)
    name = name or default_name(source)
    with _opened(source, target) as found, atomic_dir(output) as new:
        artifact = read_verified(found.folder)
        shutil.copytree(found.folder, new / "model")
        shutil.copytree(found.code, new / "code" / "detexport", ignore=shutil.ignore_patterns("__pycache__"))
        lines = requirements(artifact.format, found.requirements)
        image = image_name(artifact, name)
        (new / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        text = dockerfile(found.python, found.options, image=image, shutdown_s=SHUTDOWN_S)
        (new / "Dockerfile").write_text(text, encoding="utf-8")
        (new / "kserve.yaml").write_text(manifest(artifact, name, shutdown_s=SHUTDOWN_S), encoding="utf-8")
        without = triton.fault(artifact)
        if not without:
            triton.write_repository(artifact, found.folder, name, new / "triton")
        described = {
            "name": name,
            "artifact_sha256": artifact.sha256,
            "image": image,
            "without_triton": without,
        }
        write_json(new / PACKAGE, described)
    return Packaged(name, artifact, without)


def check_package(output: Path) -> None:
    """Check that a path is new, an empty folder, or a package to replace.

    Raises:
        ConfigError: it is a file, or a folder with other content.
    """
    if not output.exists() or (output / PACKAGE).is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise ConfigError(
            f"{output} exists and is not a package",
            got="a folder with other files" if output.is_dir() else "a file",
            expected="a new or empty folder, or a package to replace",
            remedy="choose another --output",
        )


def default_name(source: str | Path) -> str:
    """Return a model's name: the registered one, or the folder's.

    Characters that neither Triton nor a folder takes become hyphens.
    """
    if is_registered(source):
        name = re.split("[/@]", str(source).partition(":/")[2].lstrip("/"), maxsplit=1)[0]
    else:
        name = Path(source).resolve().name
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip(".-") or "model"


@contextmanager
def _opened(source: str | Path, target: str) -> Iterator[_Source]:
    """Yield what a source holds; a registered version is downloaded for the block."""
    if not is_registered(source):
        folder = Path(source)
        asked_target(read_verified(folder), target)
        options: tuple[str, ...] = ("--target", target) if target else ()
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        with tempfile.TemporaryDirectory() as temporary:
            yield _Source(folder, copy_package(Path(temporary)), (), python, options)
        return
    with extra_imports():
        from detexport.registry.download import downloaded
    with downloaded(str(source)) as stored:
        artifact = read_verified(stored.folder)
        if target:
            asked_target(artifact, target)
            options = ("--target", target)
        else:
            options = _options(artifact, stored.runtime)
        yield _of_version(stored.folder, options, str(source))


def _of_version(folder: Path, options: tuple[str, ...], source: str) -> _Source:
    """Return the code and the requirements of a registered version, from the files around its artifact."""
    root = next((path for path in folder.parents if (path / "MLmodel").is_file()), folder)
    code = root / "code" / "detexport"
    if not (root / "requirements.txt").is_file() or not (code / SERVER).is_file():
        raise ArtifactError(
            f"{source} was registered without a server in its code",
            got="a version without requirements.txt or without detexport.serving",
            expected="a version that this detexport registered",
            remedy="register the model again, or package its artifact's folder",
        )
    pinned = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    environment = root / "python_env.yaml"
    text = environment.read_text(encoding="utf-8") if environment.is_file() else ""
    version = re.search(r"^python: *['\"]?(\d+\.\d+)", text, re.M)
    python = version[1] if version else f"{sys.version_info.major}.{sys.version_info.minor}"
    return _Source(folder, code, tuple(pinned), python, options)


def _options(artifact: Artifact, runtime: dict[str, Any]) -> tuple[str, ...]:
    """Return the options of ``serve`` that run an artifact in the runtime that it was registered with.

    Raises:
        ConfigError: no target has this runtime.
    """
    given = {name: value for name, value in runtime.items() if name != "_target_"}
    threads = given.pop("threads", 0)
    threading = ("--threads", str(threads)) if threads else ()
    path = DEFAULT_ENGINES[artifact.format]
    if runtime.get("_target_", path) == path:
        if _completed(Component(path, given)) == _completed(Component(path)):
            return threading
        for name, target in targets().items():
            if target.runtime.path == path and _completed(Component(path, given)) == _completed(
                target.runtime
            ):
                return ("--target", name, *threading)
    raise ConfigError(
        "the version was registered with a runtime that no target has",
        got=shown(runtime),
        expected="the runtime of a target",
        remedy="give --target",
    )


def _completed(component: Component) -> dict[str, Any]:
    """Return a runtime's options with the defaults of those that are absent."""
    return {
        name: option.default for name, option in component.declared_options().items() if name != "threads"
    }


def files_of(package: Packaged) -> Sequence[tuple[str, str]]:
    """Return the files of a package and what each is for."""
    files = [
        ("Dockerfile", "builds the image, with requirements.txt, code/ and model/"),
        ("kserve.yaml", "runs the image as an InferenceService"),
    ]
    if not package.without_triton:
        files.append(("triton/", "a model repository for Triton"))
    return files
