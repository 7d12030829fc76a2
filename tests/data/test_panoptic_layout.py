"""COCO's panoptic annotations: where the files of a split are, and what their PNGs say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detexport.data.annotations import read_panoptic_annotations
from detexport.data.coco import find_annotations, load_coco, panoptic_folder, read_segment_map
from detexport.errors import MissingAnnotationsError
from detexport.metrics.panoptic_quality import PanopticQuality
from synthetic_shapes import synthetic_shapes


def as_it_is(folder: Path) -> Path:
    """The standard layout: the PNGs beside ``annotations``."""
    return folder / "panoptic_val"


def as_downloaded(folder: Path) -> Path:
    """The layout of COCO's downloads: the year in all names, the PNGs in ``annotations``."""
    (folder / "images/val").rename(folder / "val2017")
    for kind in ("instances", "panoptic"):
        (folder / f"annotations/{kind}_val.json").rename(folder / f"annotations/{kind}_val2017.json")
    return (folder / "panoptic_val").rename(folder / "annotations/panoptic_val2017")


@pytest.mark.parametrize("lay_out", [as_it_is, as_downloaded])
def test_a_split_is_found_in_either_layout(lay_out: Callable[[Path], Path], tmp_path: Path) -> None:
    """Each annotated segment has pixels in the PNG of its image, and no other id has."""
    synthetic_shapes(train_images=0, val_images=2, sizes=[(48, 64), (40, 56)]).write(tmp_path / "d")
    pngs = lay_out(tmp_path / "d")
    dataset = load_coco(tmp_path / "d", "val")
    assert dataset.panoptic_file == find_annotations(tmp_path / "d", "val", "panoptic")
    assert panoptic_folder(dataset.panoptic_file) == pngs
    entries = read_panoptic_annotations(dataset.panoptic_file)["annotations"]
    assert [entry["image_id"] for entry in entries] == [record.image_id for record in dataset.images]
    for record, entry in zip(dataset.images, entries, strict=True):
        segment_map = read_segment_map(pngs / entry["file_name"])
        assert segment_map.shape == (record.height, record.width)
        assert {*np.unique(segment_map)} - {0} == {segment["id"] for segment in entry["segments_info"]}


def test_an_id_is_red_and_256_green_and_65536_blue(tmp_path: Path) -> None:
    colours = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert read_segment_map(tmp_path / "a.png").tolist() == [[1, 256, 65_536, 256**3 - 1]]


def test_annotations_without_their_pngs_name_the_one_that_is_missing(tmp_path: Path) -> None:
    synthetic_shapes(train_images=0, val_images=1).write(tmp_path)
    (tmp_path / "panoptic_val/000001.png").unlink()
    file = find_annotations(tmp_path, "val", "panoptic")
    quality = PanopticQuality(file, [])
    with pytest.raises(MissingAnnotationsError, match=r"no file .*panoptic_val/000001\.png"):
        quality.evaluate_image(
            json.loads(file.read_text())["annotations"][0]["image_id"], np.zeros((1, 1), int), []
        )
