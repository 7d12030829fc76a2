"""Read a JSON file that a stage wrote, and check the fields that are used."""

from pathlib import Path
from typing import Any

from detexport.errors import DataError
from detexport.system.files import read_json
from detexport.system.json_values import decode


def read_result(path: Path, kind: type, what: str, stage: str) -> dict[str, Any]:
    """Read a JSON file and check it against a ``TypedDict``.

    Args:
        path: the file.
        kind: the keys that it must have, and their types.
        what: the file's content, in words for the error.
        stage: the stage that writes it.

    Raises:
        DataError: the file is missing, is not JSON, lacks a key or has a value of another type.
    """
    try:
        value: dict[str, Any] = decode(read_json(path), kind, path.name)
        return value
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a {what}",
            got=f"{type(error).__name__}: {error}",
            expected=f"the file that the stage `{stage}` writes",
            remedy=f"run the stage `{stage}` again",
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object whatever its keys.

    Raises:
        DataError: the file is missing, is not JSON or is not an object.
    """
    try:
        value = read_json(path)
        if not isinstance(value, dict):
            raise ValueError(f"{path.name}: {type(value).__name__}, expected an object")
        return value
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read", got=error, expected="JSON", remedy="run the stage that writes it again"
        ) from error
