"""A section of a parameters file: its content, or one error."""

import os
from pathlib import Path

import pytest

from detexport.errors import ConfigError
from detexport.system.params_file import read_section


def read(path: Path) -> dict[str, object]:
    return read_section(path, "registry", like="conf/registry/mlflow.yaml", remedy="correct it")


def test_a_section_is_returned_whatever_its_keys(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {}\nregistry: {experiment: mine, other: [1]}\n")
    assert read(tmp_path / "params.yaml") == {"experiment": "mine", "other": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {}", "has no section registry; got: data; expected: a mapping registry, as in conf/registry"),
        ("registry: 3", "has no section registry"),
        ("- 1", "has no section registry; got: list"),
        ("a: [", "cannot be read; got: ParserError"),
        ("!!python/object/apply:os.getcwd []", "cannot be read; got: ConstructorError"),
        ("[" * 5_000, "cannot be read; got: RecursionError"),
    ],
)
def test_a_file_without_it_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "params.yaml")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        read(tmp_path / "params.yaml")
