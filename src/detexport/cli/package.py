"""``detexport package``: an artifact with what other servers need to serve it."""

from pathlib import Path

from detexport.system.progress import say
from detexport.workflows.package import files_of, package


def write_package(source: str, output: Path, *, name: str, target: str) -> None:
    """Write a package and print its files; see ``detexport package --help``."""
    packaged = package(source, output, name=name, target=target)
    artifact = packaged.artifact
    print(f"{output}: {packaged.name}, {artifact.format.value}, sha256 {artifact.sha256}")
    for file, use in files_of(packaged):
        print(f"  {file:12} {use}")
    if packaged.without_triton:
        say(f"no Triton repository: {packaged.without_triton}")
