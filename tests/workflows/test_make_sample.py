"""The sample: the first validation image as the model takes it, or why there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detexport.contract import ResizeRule
from detexport.data.coco import CocoDataset, load_coco, read_record
from detexport.data.resize import resize_image, resized_size
from detexport.errors import DataError
from detexport.workflows.make_sample import make_sample
from detexport.workflows.sample_folder import read_sample
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import tiny_contract

CONTRACT = replace(tiny_contract(), channel_order="BGR", resize=ResizeRule(40, 100))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=2, sizes=[(64, 80), (60, 100)]).write(folder)
    return load_coco(folder, "val")


def test_the_sample_is_the_first_image_resized_in_the_models_channel_order(
    dataset: CocoDataset, tmp_path: Path
) -> None:
    make_sample(CONTRACT, dataset, tmp_path / "sample")
    first = dataset.images[0]
    expected = resize_image(
        read_record(first, "BGR"), resized_size(first.height, first.width, CONTRACT.resize)
    )
    assert min(expected.shape[1:]) == 40
    np.testing.assert_array_equal(read_sample(tmp_path / "sample"), expected)


def test_the_same_sample_is_the_same_bytes(dataset: CocoDataset, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_sample(CONTRACT, dataset, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_split_without_an_image_has_no_sample(dataset: CocoDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lists no image"):
        make_sample(CONTRACT, replace(dataset, images=()), tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []
