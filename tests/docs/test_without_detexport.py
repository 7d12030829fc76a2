"""The documented lines of each engine, as they stand, where nothing else is installed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from pages import ROOT, all_blocks
from PIL import Image

from detexport.data.resize import resize_image, resized_size
from detexport.processing.postprocess import scale_boxes
from detexport.runtime.onnxruntime import OnnxRuntime
from makers import maker
from tiny_artifacts import tiny_contract

PAGE = "docs/without_detexport.md"
TITLES = re.findall(r"^## (.*)$", (ROOT / PAGE).read_text(encoding="utf-8"), re.M)
CODES = [block.code for block in all_blocks() if block.page == PAGE and block.scene == "bare"]
BLOCKS = dict(zip(TITLES, CODES, strict=True))
# Of the photo, which the contract makes smaller: plain, half a px on one side, so flat that none is left.
SIZES = [(45, 75), (49, 128), (4, 1878)]


def distributions(names: list[str]) -> Iterator[Distribution]:
    """Installed distributions of these names and all that they need."""
    seen: set[str] = set()
    while names:
        name = names.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other machines
        yield found
        requirements = map(Requirement, found.requires or [])
        names += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def bare_site(folder: Path, names: list[str]) -> Path:
    """A folder to import from that has these distributions, linked, and no other."""
    folder.mkdir()
    for found in distributions(names):
        for file in found.files or []:
            top = file.parts[0]
            source = Path(str(found.locate_file(top)))
            if top not in ("..", "__pycache__") and source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


@pytest.fixture(scope="module", params=SIZES, ids=str)
def photo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(5).integers(0, 80, (*request.param, 3), np.uint8) + np.array(
        [150, 60, 120], np.uint8
    )
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def tiny_openvino(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openvino") / "openvino"
    maker("openvino").convert(tiny_onnx, [], folder)
    return folder


def expected_lines(photo: Path, artifact: Path) -> list[str]:
    contract = tiny_contract()
    pixels = np.asarray(Image.open(photo)).transpose(2, 0, 1)
    size = resized_size(*pixels.shape[1:], contract.resize)
    found = OnnxRuntime(threads=1).open(artifact)(resize_image(pixels, size))
    boxes = scale_boxes(found["pred_boxes"], size, pixels.shape[1:])
    return [
        f"{contract.class_names[label]} {score:.4f} " + " ".join(f"{side:.2f}" for side in box)
        for box, score, label in zip(boxes, found["scores"], found["pred_classes"], strict=True)
    ]


def test_every_format_that_needs_no_detexport_is_shown() -> None:
    assert list(BLOCKS) == ["ONNX", "OpenVINO", "TorchScript, traced", "TorchScript, scripted"]


def test_the_sizes_are_those_where_rounding_decides() -> None:
    rule = tiny_contract().resize
    sizes = [resized_size(*size, rule) for size in SIZES]
    assert sizes == [(38, 64), (24, 64), (1, 64)]


@pytest.mark.parametrize(
    ("title", "fixture"),
    [
        ("ONNX", "tiny_onnx"),
        ("OpenVINO", "tiny_openvino"),
        ("TorchScript, traced", "tiny_tracing"),
        ("TorchScript, scripted", "tiny_scripting"),
    ],
)
def test_the_lines_find_the_same(
    title: str, fixture: str, photo: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code = BLOCKS[title]
    named = code.splitlines()[0].removeprefix("# needs: ").split()
    site = bare_site(tmp_path / "site", list(named))
    here = tmp_path / "here"
    here.mkdir()
    (here / "artifact").symlink_to(request.getfixturevalue(fixture))
    (here / "photo.png").symlink_to(photo)
    absent = [name for name in ("detexport", "torch", "mlflow") if name not in named]
    check = f"\nfor name in {absent}:\n    assert importlib.util.find_spec(name) is None, name\n"
    program = f"import sys; sys.path.append({str(site)!r})\n{code}import importlib.util{check}"
    done = subprocess.run(
        # Isolated and without site-packages: nothing but the standard library and that folder.
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", program],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    expected = expected_lines(photo, request.getfixturevalue("tiny_onnx"))
    assert len(lines) == len(expected) > 0
    for line, other in zip(lines, expected, strict=True):
        (label, *numbers), (other_label, *others) = line.split(), other.split()
        assert label == other_label
        assert np.array(numbers, float) == pytest.approx(np.array(others, float), abs=0.011)
