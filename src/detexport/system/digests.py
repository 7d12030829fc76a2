"""SHA-256 of files, folders and JSON values."""

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the hex digest of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_tree(path: Path) -> str:
    """Return the hex digest of a file's bytes, or of the names and bytes of all files in a folder."""
    if path.is_file():
        return sha256_file(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and "__pycache__" not in file.parts]
    return sha256_json([(file.relative_to(path).as_posix(), sha256_file(file)) for file in files])
