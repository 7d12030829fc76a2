"""The synthetic data set: reproducible bytes, and files that agree with each other."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detexport.data.synthetic.annotations import IDS_PER_IMAGE, trace_polygons
from detexport.errors import ConfigError
from synthetic_shapes import synthetic_shapes

SHAPES = synthetic_shapes(seed=3, train_images=4, val_images=16)
PIXELS_SHA256 = "bdb6104411d56511cf3f43a5b5d464846673ac05993354094085170067489069"
INSTANCES_SHA256 = "ed4b6e36d37d4c4ddd180587cefdb1da6deba475300efcb3415db1f6242296ab"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "shapes"
    SHAPES.write(path)
    return path


@pytest.fixture(scope="module")
def coco(folder: Path) -> COCO:
    return COCO(str(folder / "annotations/keypoints_val.json"))


def read_ids(path: Path) -> np.ndarray:
    pixels = np.asarray(Image.open(path)).astype(np.int64)
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_parameters_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    SHAPES.write(tmp_path / "again")
    assert digests(tmp_path / "again") == digests(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_an_image_does_not_depend_on_the_number_of_images(folder: Path, tmp_path: Path) -> None:
    synthetic_shapes(seed=3, train_images=0, val_images=2).write(tmp_path / "two")
    name = "images/val/000002.png"
    assert (tmp_path / "two" / name).read_bytes() == (folder / name).read_bytes()


def test_the_pixels_are_the_same_on_every_machine() -> None:
    """A library that draws or rounds differently changes the committed digests."""
    rng = np.random.default_rng([SHAPES.seed, 1, 1])
    scene = SHAPES._draw(rng)
    assert hashlib.sha256(scene.image.tobytes()).hexdigest() == PIXELS_SHA256
    assert hashlib.sha256(scene.instance_map.astype("<i8").tobytes()).hexdigest() == INSTANCES_SHA256


def test_another_seed_or_split_gives_other_images(folder: Path, tmp_path: Path) -> None:
    synthetic_shapes(seed=4, train_images=1, val_images=1).write(tmp_path / "other")
    images = {(folder / f"images/{split}/000001.png").read_bytes() for split in ("train", "val")}
    images |= {(tmp_path / f"other/images/{split}/000001.png").read_bytes() for split in ("train", "val")}
    assert len(images) == 4


def test_masks_decode_to_the_visible_pixels(folder: Path, coco: COCO) -> None:
    kinds = set()
    for image_id, image in coco.imgs.items():
        ids = read_ids(folder / "panoptic_val" / image["file_name"])
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, ids == annotation["id"])
            y, x = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            kinds.add(type(annotation["segmentation"]))
    assert kinds == {list, dict}


def test_panoptic_segments_cover_the_image_and_agree_with_the_semantic_map(folder: Path) -> None:
    panoptic = json.loads((folder / "annotations/panoptic_val.json").read_text())
    things = {category["id"] for category in panoptic["categories"] if category["isthing"]}
    for annotation in panoptic["annotations"]:
        ids = read_ids(folder / "panoptic_val" / annotation["file_name"])
        semantic = np.asarray(Image.open(folder / "semantic_val" / annotation["file_name"]))
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(segments) == set(np.unique(ids))
        assert len(segments) == len(annotation["segments_info"])
        for segment_id, segment in segments.items():
            mask = ids == segment_id
            assert segment["area"] == mask.sum()
            category = segment["category_id"]
            assert set(np.unique(semantic[mask])) == {0 if category in things else category - len(things)}


def test_panoptic_things_are_the_instances(folder: Path, coco: COCO) -> None:
    panoptic = json.loads((folder / "annotations/panoptic_val.json").read_text())
    segments = {
        (annotation["image_id"], segment["id"]): segment
        for annotation in panoptic["annotations"]
        for segment in annotation["segments_info"]
        if segment["category_id"] <= 5
    }
    assert set(segments) == {(a["image_id"], a["id"]) for a in coco.anns.values()}
    for (_, annotation_id), segment in segments.items():
        for key in ("category_id", "bbox", "area"):
            assert segment[key] == coco.anns[annotation_id][key]


def test_visibility_of_keypoints(folder: Path, coco: COCO) -> None:
    seen = set()
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        ids = read_ids(folder / "panoptic_val" / image["file_name"])
        things_in_front = range(annotation["id"] + 1, (annotation["image_id"] * IDS_PER_IMAGE) + 50)
        points = np.reshape(annotation["keypoints"], (5, 3)).tolist()
        assert annotation["num_keypoints"] == sum(v > 0 for _, _, v in points)
        for x, y, v in points:
            seen.add(v)
            if v == 0:
                assert (x, y) == (0, 0)
            else:
                assert (ids[y, x] in things_in_front) == (v == 1)
    assert seen == {0, 1, 2}


def test_instances_are_the_keypoint_annotations_without_keypoints(folder: Path, coco: COCO) -> None:
    instances = COCO(str(folder / "annotations/instances_val.json"))
    assert set(instances.anns) == set(coco.anns)
    assert instances.imgs == coco.imgs
    assert not any("keypoints" in annotation for annotation in instances.anns.values())
    assert [category["name"] for category in instances.cats.values()] == [
        "circle",
        "rectangle",
        "triangle",
        "star",
        "ring",
    ]


def test_images_have_several_sizes_as_annotated(folder: Path, coco: COCO) -> None:
    sizes = set()
    for image in coco.imgs.values():
        with Image.open(folder / "images/val" / image["file_name"]) as opened:
            assert (opened.mode, opened.size) == ("RGB", (image["width"], image["height"]))
        sizes.add((image["height"], image["width"]))
        assert 1 <= len(coco.getAnnIds(image["id"])) <= SHAPES.max_objects
    assert len(sizes) > 3
    assert any(height % 32 or width % 32 for height, width in sizes)


def test_the_description_counts_the_images(folder: Path) -> None:
    description = json.loads((folder / "dataset.json").read_text())
    assert description["images"] == {"train": 4, "val": 16}
    assert description["keypoint_flip"] == {"left": "right", "right": "left"}
    for split, count in description["images"].items():
        assert len(list((folder / "images" / split).iterdir())) == count


@pytest.mark.parametrize(
    "options",
    [
        {"train_images": -1},
        {"max_objects": 1},
        {"min_objects": -1},
        {"min_objects": 0, "max_objects": 0},
        {"object_px": (4, 8)},
        {"sizes": ((8, 200),)},
        {"sizes": ()},
    ],
)
def test_numbers_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=r"out of range.*expected.*remedy"):
        synthetic_shapes(**options)


def test_min_objects_zero_draws_images_without_objects(tmp_path: Path) -> None:
    synthetic_shapes(train_images=0, val_images=8, min_objects=0, max_objects=1).write(tmp_path / "sparse")
    coco = COCO(str(tmp_path / "sparse/annotations/instances_val.json"))
    assert {len(coco.getAnnIds(image)) for image in coco.imgs} == {0, 1}


def test_parts_that_touch_at_a_corner_are_separate_polygons() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0]], dtype=bool)
    polygons = trace_polygons(mask)
    assert polygons is not None
    assert len(polygons) == 3
    assert [0, 0, 2, 0, 2, 1, 0, 1] in polygons


def test_a_hole_has_no_polygon() -> None:
    mask = np.ones((3, 3), dtype=bool)
    mask[1, 1] = False
    assert trace_polygons(mask) is None
