"""Digests of files, folders and values; locks between processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from detexport.system.digests import sha256_file, sha256_json, sha256_tree
from detexport.system.locks import locked

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_of_an_empty_file_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty") == EMPTY == sha256_tree(tmp_path / "empty")


def test_the_digest_of_a_value_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_the_digest_of_a_folder_covers_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = sha256_tree(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("2")
    assert sha256_tree(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_tree(tmp_path) != first


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from detexport.system.locks import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        other.communicate("")
    with locked(tmp_path, wait=False):
        pass
