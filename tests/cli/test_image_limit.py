"""``--max-image-pixels`` of the commands that read images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image
from running import Run

from detexport.cli import app
from detexport.data.images import LIMIT_VARIABLE
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import write_tiny_onnx


def of_predict(folder: Path) -> tuple[object, ...]:
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    return "predict", folder / "onnx", folder / "a.png"


def of_validate(folder: Path) -> tuple[object, ...]:
    synthetic_shapes(train_images=0, val_images=1, sizes=[(32, 32)]).write(folder / "shapes")
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
    assert limited == {"export", "predict", "validate", "diagnose", "serve"}
