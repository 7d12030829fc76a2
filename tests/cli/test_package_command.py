"""`detexport package`: what it prints, and wrong requests."""

from pathlib import Path

import pytest
from running import Run


def test_it_prints_the_files_of_the_package(run: Run, tiny_onnx: Path, tmp_path: Path) -> None:
    done = run("package", tiny_onnx, "--output", "package", "--name", "shapes")
    assert done.returncode == 0, done.stderr
    first, *files = done.stdout.splitlines()
    assert first.startswith("package: shapes, ONNX, sha256 ")
    for line in files:
        assert (tmp_path / "package" / line.split()[0]).exists()


def test_it_says_why_there_is_no_triton_repository(run: Run, tiny_scripting: Path) -> None:
    done = run("package", tiny_scripting, "--output", "package")
    assert done.returncode == 0, done.stderr
    assert "triton" not in done.stdout
    assert done.stderr.startswith("no Triton repository: a scripted graph")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nothing", "--output", "package"], "nothing is not an artifact"),
        (["{onnx}"], "--output"),
        (["{onnx}", "--output", "package", "--name", "a/b"], "invalid name of a model"),
        (["{onnx}", "--output", "package", "--target", "tracing"], "does not run artifacts of this format"),
        (["{onnx}", "--output", "{onnx}"], "exists and is not a package"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(
    run: Run, tiny_onnx: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    done = run("package", *(option.format(onnx=tiny_onnx) for option in options))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "package").exists()
