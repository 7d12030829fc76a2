"""Files by path."""

from pathlib import Path

from detexport.utils.file_io import PathManager


def test_files_and_folders(tmp_path: Path) -> None:
    folder, file = tmp_path / "a/b", tmp_path / "a/b/c.txt"
    PathManager.mkdirs(folder)
    with PathManager.open(file, "w") as stream:
        stream.write("text")
    with PathManager.open(file) as stream:
        assert stream.read() == "text"
    assert (PathManager.isdir(folder), PathManager.isfile(file), PathManager.exists(tmp_path / "no")) == (
        True,
        True,
        False,
    )
    assert PathManager.get_local_path(file) == str(file)
    assert PathManager.copy(file, folder / "d.txt")
    assert not PathManager.copy(file, folder / "d.txt")
    assert PathManager.ls(folder) == ["c.txt", "d.txt"]
    PathManager.rm(file)
    assert PathManager.ls(folder) == ["d.txt"]
