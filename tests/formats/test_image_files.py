import os
from pathlib import Path

import pytest

from detexport.errors import DataError
from detexport.formats.image_files import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", "deeper/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_files_folders_and_patterns_stand_for_images(folder: Path) -> None:
    assert [path.name for path in find_images([str(folder)])] == ["a.JPG", "b.png"]
    assert [path.name for path in find_images([str(folder / "*.png")])] == ["b.png"]
    assert [path.name for path in find_images([str(folder / "**/*.png")])] == ["b.png", "c.png"]
    assert find_images([str(folder / "notes.txt")]) == [folder / "notes.txt"], "who names a file means it"


def test_each_image_comes_once(folder: Path) -> None:
    names = [str(folder / "b.png"), str(folder), str(folder / "b*")]
    assert [path.name for path in find_images(names)] == ["b.png", "a.JPG"]


@pytest.mark.parametrize("name", ["none.png", "*.tiff", "empty"])
def test_a_name_for_nothing_is_refused(folder: Path, name: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="there is no such image"):
        find_images([str(folder / "b.png"), str(folder / name)])


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "pipe.png"])
def test_what_is_no_file_is_no_image(folder: Path, name: str) -> None:
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(DataError, match="there is no such image") as raised:
        find_images([str(folder / name)])
    assert len(str(raised.value)) < 500


def test_a_folder_with_the_name_of_an_image_is_none(folder: Path) -> None:
    (folder / "folder.png").mkdir()
    assert [path.name for path in find_images([str(folder)])] == ["a.JPG", "b.png"]
