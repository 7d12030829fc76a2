import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from coco_files import annotation, write_coco
from PIL import Image

from detexport.data import DatasetCatalog, MetadataCatalog, load_coco_json, register_coco_instances
from detexport.data.datasets import (
    coco,
    convert_to_coco_json,
    load_lvis_json,
    load_sem_seg,
    load_voc_instances,
    register_coco_panoptic,
    register_coco_panoptic_separated,
    register_lvis_instances,
    register_pascal_voc,
)
from detexport.data.datasets.coco_panoptic import load_coco_panoptic_json, merge_to_panoptic
from detexport.errors import DataError
from detexport.structures import BoxMode


def test_records_of_a_coco_file(tmp_path: Path) -> None:
    records = load_coco_json(write_coco(tmp_path), tmp_path, extra_annotation_keys=["area"])
    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    first = records[0]
    assert first["file_name"] == str(tmp_path / "1.png")
    assert (first["height"], first["width"]) == (40, 60)
    assert [a["category_id"] for a in first["annotations"]] == [7, 3]
    assert first["annotations"][0] == {
        "bbox": [4, 6, 16, 18],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 7,
        "iscrowd": 0,
        "area": 288,
        "segmentation": [[4, 6, 20, 6, 20, 24, 4, 24]],
        "keypoints": [10.5, 10.5, 2, 6.5, 8.5, 1, 0.5, 0.5, 0],
    }
    assert records[3]["annotations"] == []


def test_invalid_polygons_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_kinds = [[1, 1, 5, 5], [4, 6, 20, 6, 20, 24]]
    extra = [annotation(10, 4, segmentation=[[1, 1, 5, 5]]), annotation(11, 4, segmentation=two_kinds)]
    with caplog.at_level(logging.WARNING):
        records = load_coco_json(write_coco(tmp_path, annotations=extra), tmp_path)
    assert [a["segmentation"] for a in records[3]["annotations"]] == [two_kinds[1:]]
    assert "1 annotations without a valid polygon" in caplog.text


def test_a_registered_data_set_has_its_classes_in_the_metadata(tmp_path: Path) -> None:
    path = write_coco(tmp_path)
    register_coco_instances("pets_of_this_test", {"color": "red"}, path, tmp_path)
    try:
        metadata = MetadataCatalog.get("pets_of_this_test")
        assert (metadata.json_file, metadata.image_root, metadata.color) == (str(path), str(tmp_path), "red")
        assert metadata.evaluator_type == "coco"
        assert len(DatasetCatalog.get("pets_of_this_test")) == 4
        assert metadata.thing_classes == ["dog", "cat"]
        assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
        with pytest.raises(DataError, match="registered already"):
            register_coco_instances("pets_of_this_test", {}, path, tmp_path)
    finally:
        DatasetCatalog.remove("pets_of_this_test")
        MetadataCatalog.remove("pets_of_this_test")


def test_a_file_that_is_not_cocos(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="not a COCO annotation file"):
        load_coco_json(tmp_path / "x.json", tmp_path)


def write_image(path: Path, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if path.suffix == ".png" else "RGB", size).save(path)


@pytest.fixture
def catalogued() -> Iterator[str]:
    name = "names_of_datasets"
    yield name
    for suffix in ("", "_separated", "_stuffonly"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            if f"{name}{suffix}" in catalog.list():
                catalog.remove(f"{name}{suffix}")


def test_label_maps_are_paired_with_images(tmp_path: Path) -> None:
    for name in ("b", "a/c"):
        write_image(tmp_path / f"maps/{name}.png")
        write_image(tmp_path / f"images/{name}.jpg")
    records = load_sem_seg(tmp_path / "maps", tmp_path / "images")
    assert [Path(one["file_name"]).relative_to(tmp_path).as_posix() for one in records] == [
        "images/a/c.jpg",
        "images/b.jpg",
    ]
    (tmp_path / "images/b.jpg").unlink()
    with pytest.raises(DataError, match=r"without images.*b\.jpg"):
        load_sem_seg(tmp_path / "maps", tmp_path / "images")
    with pytest.raises(DataError, match="no label map"):
        load_sem_seg(tmp_path / "images", tmp_path / "images")


def test_a_registered_data_set_in_cocos_format_is_read_back(tmp_path: Path, catalogued: str) -> None:
    records = [
        {
            "file_name": str(tmp_path / "a.png"),
            "height": 20,
            "width": 30,
            "image_id": 7,
            "annotations": [
                {
                    "bbox": [1, 2, 11, 12],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 1,
                    "segmentation": [[1, 2, 11, 2, 11, 12, 1, 12]],
                    "keypoints": [3.5, 4.5, 2, 0.5, 0.5, 0],
                    "iscrowd": 0,
                }
            ],
        }
    ]
    write_image(tmp_path / "a.png", (30, 20))
    DatasetCatalog.register(catalogued, lambda: records)
    MetadataCatalog.get(catalogued).set(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={3: 0, 9: 1}
    )
    file = tmp_path / "out/coco.json"
    convert_to_coco_json(catalogued, file)
    content = json.loads(file.read_text())
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    (annotation,) = content["annotations"]
    assert annotation["bbox"] == [1, 2, 10, 10]
    assert annotation["area"] == 100
    assert annotation["keypoints"] == [3, 4, 2, 0, 0, 0]
    assert annotation["num_keypoints"] == 1
    (back,) = load_coco_json(file, tmp_path)
    assert {key: back[key] for key in ("height", "width", "image_id")} == {
        "height": 20,
        "width": 30,
        "image_id": 7,
    }
    assert back["annotations"][0]["category_id"] == 9
    assert back["annotations"][0]["keypoints"] == records[0]["annotations"][0]["keypoints"]
    file.write_text("{}")
    convert_to_coco_json(catalogued, file)
    assert file.read_text() == "{}"
    convert_to_coco_json(catalogued, file, allow_cached=False)
    assert json.loads(file.read_text()) == content


def test_panoptic_annotations(tmp_path: Path, catalogued: str) -> None:
    segments = [{"id": 1, "category_id": 5, "iscrowd": 0}, {"id": 2, "category_id": 8, "iscrowd": 0}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 5, "name": "dog", "isthing": 1}, {"id": 8, "name": "sky", "isthing": 0}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    metadata = {
        "thing_dataset_id_to_contiguous_id": {5: 0},
        "stuff_dataset_id_to_contiguous_id": {8: 1},
    }
    register_coco_panoptic(
        catalogued, metadata, tmp_path / "images", tmp_path / "maps", tmp_path / "panoptic.json"
    )
    (record,) = DatasetCatalog.get(catalogued)
    assert record["file_name"] == str(tmp_path / "images/a.jpg")
    assert record["pan_seg_file_name"] == str(tmp_path / "maps/a.png")
    assert [(one["category_id"], one["isthing"]) for one in record["segments_info"]] == [
        (0, True),
        (1, False),
    ]
    assert MetadataCatalog.get(catalogued).evaluator_type == "coco_panoptic_seg"
    with pytest.raises(DataError, match="no contiguous id"):
        load_coco_panoptic_json(
            tmp_path / "panoptic.json",
            tmp_path,
            tmp_path,
            {**metadata, "stuff_dataset_id_to_contiguous_id": {}},
        )


def test_instances_with_their_label_maps(tmp_path: Path, catalogued: str) -> None:
    write_image(tmp_path / "images/a.jpg")
    write_image(tmp_path / "maps/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
        "annotations": [],
        "categories": [{"id": 5, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    register_coco_panoptic_separated(
        catalogued,
        {"stuff_classes": ["things", "sky"]},
        tmp_path / "images",
        tmp_path / "panoptic",
        tmp_path / "panoptic.json",
        tmp_path / "maps",
        tmp_path / "instances.json",
    )
    (record,) = DatasetCatalog.get(f"{catalogued}_separated")
    assert record["sem_seg_file_name"] == str(tmp_path / "maps/a.png")
    assert record["annotations"] == []
    (stuff,) = DatasetCatalog.get(f"{catalogued}_stuffonly")
    assert stuff["file_name"] == record["file_name"]
    with pytest.raises(DataError, match="no label map"):
        merge_to_panoptic([record], [])


def test_lvis_annotations(tmp_path: Path, catalogued: str) -> None:
    annotation = {
        "bbox": [1, 2, 3, 4],
        "segmentation": [[0, 0, 1, 0, 1, 1]],
        "image_id": 2,
        "category_id": 30,
    }
    content = {
        "images": [
            {
                "id": 2,
                "height": 6,
                "width": 8,
                "coco_url": "http://host/val2017/b.jpg",
                "neg_category_ids": [20],
            }
        ],
        "annotations": [{**annotation, "id": 1}],
        "categories": [{"id": 30, "name": "rare", "synonyms": ["rare_thing"]}, {"id": 20, "name": "other"}],
    }
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    register_lvis_instances(catalogued, {}, tmp_path / "lvis.json", tmp_path)
    (record,) = DatasetCatalog.get(catalogued)
    assert record["file_name"] == str(tmp_path / "val2017/b.jpg")
    assert record["neg_category_ids"] == [20]
    assert record["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get(catalogued).thing_classes == ["other", "rare_thing"]
    (tmp_path / "lvis.json").write_text("{}")
    with pytest.raises(DataError, match="is not LVIS's"):
        load_lvis_json(tmp_path / "lvis.json", tmp_path)


def test_pascal_voc(tmp_path: Path, catalogued: str) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("000001\n")
    xml = (
        "<annotation><size><width>30</width><height>20</height></size><object><name>dog</name><bndbox>"
        "<xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object></annotation>"
    )
    path = tmp_path / "Annotations/000001.xml"
    path.write_text(xml)
    register_pascal_voc(catalogued, tmp_path, "val", 2007)
    (record,) = DatasetCatalog.get(catalogued)
    assert (record["height"], record["width"], record["image_id"]) == (20, 30, "000001")
    (annotation,) = record["annotations"]
    assert annotation["bbox"] == [0, 1, 10, 12]
    assert MetadataCatalog.get(catalogued).thing_classes[annotation["category_id"]] == "dog"
    for broken in (xml.replace("dog", "unicorn"), xml.replace("30", ""), "<annotation"):
        path.write_text(broken)
        with pytest.raises(DataError, match="not an annotation of Pascal VOC"):
            load_voc_instances(tmp_path, "val")
    with pytest.raises(DataError, match="does not exist"):
        load_voc_instances(tmp_path, "train")


def test_class_indices_need_the_name_of_a_data_set(tmp_path: Path) -> None:
    first, *_ = load_coco_json(write_coco(tmp_path), tmp_path, "pets_by_index")
    MetadataCatalog.remove("pets_by_index")
    # By the order of the category ids: dog is 3, cat is 7.
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]


def test_a_rotated_box_keeps_its_values_and_its_area() -> None:
    box = {"bbox": [20.0, 30, 10, 4, 45], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    record = {"file_name": "a.png", "height": 60, "width": 60, "annotations": [box]}
    DatasetCatalog.register("rotated_of_this_test", lambda: [record])
    MetadataCatalog.get("rotated_of_this_test").set(thing_classes=["ship"])
    try:
        (found,) = coco.convert_to_coco_dict("rotated_of_this_test")["annotations"]
    finally:
        DatasetCatalog.remove("rotated_of_this_test")
        MetadataCatalog.remove("rotated_of_this_test")
    assert (found["bbox"], found["area"]) == ([20, 30, 10, 4, 45], 40)
