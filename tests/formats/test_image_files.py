import os
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from running import Run

<<<<<<< 561ddb8c4f09de539ea4035b6578f1bc903cd043:tests/formats/test_image_files.py
from detexport.errors import DataError
from detexport.formats.image_files import find_images
=======
from detexport.cli import app
from detexport.cli.images import find_images
from detexport.data.images import LIMIT_VARIABLE
from detexport.data.synthetic import SyntheticShapes
from detexport.errors import DataError
from tiny_artifacts import write_tiny_onnx
>>>>>>> 490a26b8c42b31c393c12a368c2f329a39c738f6:tests/cli/test_images.py


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


def of_predict(folder: Path) -> tuple[object, ...]:
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    return "predict", folder / "onnx", folder / "a.png"


def of_validate(folder: Path) -> tuple[object, ...]:
    SyntheticShapes(train_images=0, val_images=1, sizes=[(32, 32)]).write(folder / "shapes")
    return "validate", folder / "onnx", "--against", folder / "onnx", "--data", folder / "shapes"


@pytest.mark.parametrize("asked", [of_predict, of_validate])
def test_an_option_limits_the_pixels_and_wins_over_the_environment(
    asked: Callable[[Path], tuple[object, ...]], run: Run, tmp_path: Path
) -> None:
    write_tiny_onnx(tmp_path / "onnx")
    done = run(*asked(tmp_path), "--max-image-pixels", 1023, **{LIMIT_VARIABLE: "1024"})
    assert done.returncode == 2
    assert "got: 32 x 32 px" in done.stderr
    assert (
        "expected: at most 1023 pixels; remedy: resize it, or raise the limit: --max-image-pixels"
        in done.stderr
    )


def test_each_command_that_reads_images_has_the_option() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    limited = {
        name
        for name, one in commands.items()
        for parameter in one.params
        if "--max-image-pixels" in parameter.opts
    }
    assert limited == {"export", "predict", "validate", "diagnose"}
