"""Variants of COCO annotation files: read correctly, or refused by an error that names the entry."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import annotation, write_coco

from detexport.data.annotations import read_annotations, read_panoptic_annotations
from detexport.data.coco import load_coco, read_coco
from detexport.data.datasets import load_coco_json
from detexport.errors import DataError

Change = Callable[[dict[str, Any]], object]


def edited(folder: Path, change: Change) -> Path:
    path = write_coco(folder)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return path


def rename_images(ids: dict[int, Any]) -> Change:
    def change(value: dict[str, Any]) -> None:
        for image in value["images"]:
            image["id"] = ids.get(image["id"], image["id"])
        for one in value["annotations"]:
            one["image_id"] = ids.get(one["image_id"], one["image_id"])

    return change


def first(key: str, **changes: Any) -> Change:
    return lambda value: value[key][0].update(changes)


def test_class_i_is_the_i_th_smallest_category_id(tmp_path: Path) -> None:
    path = write_coco(tmp_path)  # cat is 7, dog is 3, in this order
    assert [category["name"] for category in read_annotations(path)["categories"]] == ["dog", "cat"]
    dataset = read_coco(path, tmp_path)
    assert (dataset.class_names, dataset.category_ids) == (("dog", "cat"), (3, 7))
    assert [a["category_id"] for a in dataset.images[0].annotations] == [1, 0]


@pytest.mark.parametrize(
    ("ids", "order"),
    [
        ({1: "b", 2: "a", 3: "d", 4: "c"}, ["a", "b", "c", "d"]),
        ({1: "1", 3: "x/../y"}, [2, 4, "1", "x/../y"]),
        ({1: 1.0, 2: -2, 3: 10**18}, [-2, 1, 4, 10**18]),
    ],
)
def test_ids_of_images_are_integers_strings_or_both(
    tmp_path: Path, ids: dict[int, Any], order: list[Any]
) -> None:
    path = edited(tmp_path, rename_images(ids))
    records = load_coco_json(path, tmp_path)
    assert [record["image_id"] for record in records] == order
    assert all(type(record["image_id"]) in (int, str) for record in records)
    counts = {record["image_id"]: len(record["annotations"]) for record in records}
    assert counts == {ids.get(1, 1): 2, ids.get(2, 2): 1, ids.get(3, 3): 1, 4: 0} or len(ids) == 4


def test_ids_of_categories_may_be_strings(tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["categories"][0]["id"] = "k"
        for one in value["annotations"]:
            one["category_id"] = {7: "k"}.get(one["category_id"], one["category_id"])

    dataset = read_coco(edited(tmp_path, change), tmp_path)
    assert (dataset.class_names, dataset.category_ids) == (("dog", "cat"), (3, "k"))


@pytest.mark.parametrize("segmentation", [[], None])
def test_an_annotation_without_a_segmentation_is_a_box(tmp_path: Path, segmentation: Any) -> None:
    def change(value: dict[str, Any]) -> None:
        for one in value["annotations"]:
            one["segmentation"] = segmentation

    records = load_coco_json(edited(tmp_path, change), tmp_path)
    kept = [one for record in records for one in record["annotations"]]
    assert len(kept) == 4
    assert all("segmentation" not in one for one in kept)


def test_all_readers_apply_the_same_rule_to_polygons(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    without = [annotation(i, 4, segmentation=[[1, 1, 5, 5], [1, 2, 3, 4, 5, 6, 7]]) for i in range(10, 18)]
    path = write_coco(tmp_path, annotations=without)
    with caplog.at_level(logging.WARNING):
        assert load_coco_json(path, tmp_path)[3]["annotations"] == []
        assert read_coco(path, tmp_path).images[3].annotations == ()
    assert (
        "8 annotations without a valid polygon are left out: ids 10, 11, 12, 13, 14 and 3 more" in caplog.text
    )


def test_two_images_of_one_file_and_two_categories_of_one_name(tmp_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        value["images"][2].update(file_name="1.png", height=40, width=60)
        value["categories"].append({"id": 1, "name": "cat"})

    dataset = read_coco(edited(tmp_path, change), tmp_path)
    assert dataset.class_names == ("cat", "dog", "cat")
    assert dataset.images[0].file_name == dataset.images[2].file_name
    assert [len(record.annotations) for record in dataset.images] == [2, 1, 1, 0]


def test_a_name_of_several_categories_selects_all_of_them(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda value: value["categories"].append({"id": 1, "name": "cat"}))
    dataset = read_coco(path, tmp_path, ["dog", "cat", "cat"])
    assert dataset.category_ids == (3, 1, 7)
    with pytest.raises(DataError, match=r"got: cat; expected: different names of cat \(2 times\), dog"):
        read_coco(path, tmp_path, ["cat", "dog"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *[
            (
                first("images", **{key: got}),
                rf"images\[0\].* is not valid; got: {key}: .*; expected: .*; remedy: ",
            )
            for key, values in {
                "id": [None, True, 1.5, "", [], {}, 10**30],
                "file_name": [None, 3, "", " ", "a\0b", "\ud800", ["1.png"]],
                "height": [None, "40", 0, -1, 1.5, 70_000, True, float("nan"), 1e400, [40]],
                "width": [None, 10**30],
            }.items()
            for got in values
        ],
        *[
            (
                first("annotations", **{key: got}),
                rf"annotations\[0\].* is not valid; got: {key}: .*; expected: .*; remedy: ",
            )
            for key, values in {
                "id": [None, False],
                "image_id": [None, True, 1.5],
                "category_id": [None, [], 7.5],
                "iscrowd": [None, 2, "0", float("nan"), []],
                "area": [None, -1, "9", float("nan")],
                "bbox": [
                    None,
                    7,
                    {},
                    [],
                    [1, 2, 3],
                    [1, 2, 3, 4, 5],
                    [1, 2, -3, 4],
                    [1, 2, 3, float("nan")],
                    [1, 2, 3, float("-inf")],
                    [1, 2, 3, "4"],
                    [1, 2, 3, True],
                    [1, 2, 3, 10**400],
                    [1, 2, 3, [4]],
                ],
                "segmentation": [
                    [["a"]],
                    [[1, 2, 3, 4, 5, float("nan")]],
                    {"size": [40, 60], "counts": "x"},
                    5,
                    "a",
                ],
                "keypoints": [[1, 2], ["x", 1, 2], 5, "abc", [1, 2, float("nan")]],
            }.items()
            for got in values
        ],
        (first("categories", id=None), r"categories\[0\].* got: id: None"),
        (first("categories", name=5), r"categories\[0\] \(id 7\) is not valid; got: name: 5"),
        (first("categories", name=""), r"categories\[0\].* got: name: ''"),
        (first("categories", keypoints=[1]), r"categories\[0\].* got: keypoints: \[1\]"),
        (lambda v: v["images"].append(v["images"][0]), "occurs twice in 'images': 1; expected: each id once"),
        (lambda v: v["annotations"].append(v["annotations"][0]), "occurs twice in 'annotations': 1"),
        (lambda v: v["categories"].append(v["categories"][0]), "occurs twice in 'categories': 7"),
        (
            first("annotations", image_id="1"),
            r"got: unknown image_id '1'; expected: the id of an entry in 'images'",
        ),
        (first("annotations", category_id=99), "got: unknown category_id 99"),
        (lambda v: v["annotations"][2].pop("bbox"), r"got: annotations\[2\] without bbox"),
        (lambda v: v["images"].append(7), r"got: images\[4\] without id, file_name, height, width"),
        (lambda v: v.pop("categories"), "got: no list 'categories'"),
        (lambda v: v.update(images={}), "got: no list 'images'"),
    ],
)
def test_errors_name_the_entry_and_the_value(tmp_path: Path, change: Change, message: str) -> None:
    path = edited(tmp_path, change)
    with pytest.raises(DataError, match=message) as raised:
        read_annotations(path)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"\x80\x00\xff", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"images": [' + b"9" * 5000 + b"]}", "not JSON"),
        (b"[]", "no list 'images'"),
        (b"null", "no list 'images'"),
    ],
    ids=range(9),
)
def test_other_files_are_refused(tmp_path: Path, text: bytes, got: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(DataError, match=f"x.json is not a COCO annotation file; got: .*{got}"):
        read_annotations(tmp_path / "x.json")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path)["images"]) == 4


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(DataError, match=f"got: .*{name}, which is not a regular file"):
            read_annotations(tmp_path / name)
    with pytest.raises(DataError, match=r"got: no file .*none"):
        read_annotations(tmp_path / "none")


def test_labelled_keypoints_are_counted(tmp_path: Path) -> None:
    value = read_annotations(edited(tmp_path, first("annotations", num_keypoints=77)))
    assert [one["num_keypoints"] for one in value["annotations"]] == [2, 2, 2, 2]


def panoptic(**changes: Any) -> dict[str, Any]:
    segment = {"id": 5, "category_id": 2, "area": 9}
    entry = {"image_id": "a", "file_name": "a.png", "segments_info": [segment]}
    return {"annotations": [entry], "categories": [{"id": 2, "name": "sky", "isthing": 0}], **changes}


def test_panoptic_annotations(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(panoptic()))
    (entry,) = read_panoptic_annotations(path)["annotations"]
    assert entry["segments_info"] == [{"id": 5, "category_id": 2, "iscrowd": 0}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["annotations"][0].pop("segments_info"), r"annotations\[0\] without segments_info"),
        (lambda v: v["annotations"][0].update(segments_info=3), "segments_info: 3"),
        (lambda v: v["annotations"][0]["segments_info"].append(3), r"segments_info: \[1\] without"),
        (lambda v: v["annotations"][0]["segments_info"][0].update(id=0), "id: 0"),
        (lambda v: v["annotations"][0]["segments_info"][0].update(id="5"), "id: '5'"),
        (lambda v: v["annotations"][0]["segments_info"][0].update(category_id=9), "unknown category_id 9"),
        (lambda v: v["annotations"].append(v["annotations"][0]), "occurs twice in 'annotations': 'a'"),
        (lambda v: v["categories"][0].pop("isthing"), r"categories\[0\] without isthing"),
        (lambda v: v["categories"][0].update(isthing="no"), "isthing: 'no'"),
    ],
)
def test_invalid_panoptic_annotations(tmp_path: Path, change: Change, message: str) -> None:
    value = panoptic()
    change(value)
    path = tmp_path / "panoptic.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=message):
        read_panoptic_annotations(path)


def coco_download(folder: Path, year: str = "2017") -> Path:
    """Create the layout of COCO's downloads: no ``dataset.json``, images next to the annotations."""
    images = folder / f"val{year}"
    images.mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    names = ["nose", "left_eye", "right_eye"]
    path = edited(images, lambda value: [c.update(keypoints=names) for c in value["categories"]])
    path.rename(folder / f"annotations/person_keypoints_val{year}.json")
    return folder


def test_the_layout_of_cocos_downloads_needs_no_dataset_json(tmp_path: Path) -> None:
    folder = coco_download(tmp_path)
    dataset = load_coco(folder, "val", kind="keypoints")
    assert [record.file_name.name for record in dataset.images] == ["1.png", "2.png", "3.png", "4.png"]
    assert dataset.keypoint_flip == (0, 2, 1)
    assert dataset.panoptic_file == folder / "annotations/panoptic_val.json"
    with pytest.raises(DataError, match=r"missing; got: no file .*instances_val\.json"):
        load_coco(folder, "val")


def test_annotations_of_two_years_are_ambiguous(tmp_path: Path) -> None:
    coco_download(tmp_path, "2014")
    coco_download(tmp_path)
    with pytest.raises(DataError, match=r"val of .* is ambiguous; got: .*2017.*2014"):
        load_coco(tmp_path, "val", kind="keypoints")
