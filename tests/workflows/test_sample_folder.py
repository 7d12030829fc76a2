"""The stored sample: its pixels come back, and a folder without one says how to get it."""

import json
from pathlib import Path

import numpy as np
import pytest

from detexport.errors import DataError
from detexport.workflows.sample_folder import read_sample, write_sample
from tiny_artifacts import tiny_image


def test_the_pixels_come_back_with_the_images_name_beside_them(tmp_path: Path) -> None:
    write_sample(tiny_image(), tmp_path / "sample", image_id="a", file="a.png")
    found = read_sample(tmp_path / "sample")
    np.testing.assert_array_equal(found, tiny_image())
    assert found.dtype == np.uint8
    index = json.loads((tmp_path / "sample/sample.json").read_text())
    assert index == {"image_id": "a", "file": "a.png", "shape": [3, 30, 50]}


def test_a_sample_replaces_the_former_one_whole(tmp_path: Path) -> None:
    for size in ((30, 50), (8, 9)):
        write_sample(tiny_image(*size), tmp_path / "sample", image_id=1, file="a.png")
    assert read_sample(tmp_path / "sample").shape == (3, 8, 9)
    assert sorted(path.name for path in (tmp_path / "sample").iterdir()) == ["image.npy", "sample.json"]


@pytest.mark.parametrize("content", [None, b"", b"no array"])
def test_what_holds_no_sample_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "image.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"holds no sample; got: .*; remedy: run the stage `sample` again"):
        read_sample(tmp_path)
