import logging
from pathlib import Path

import pytest
from coco_files import annotation, write_coco

from detexport.data import DatasetCatalog, MetadataCatalog, load_coco_json, register_coco_instances
from detexport.errors import DataError
from detexport.structures import BoxMode


def test_records_of_a_coco_file(tmp_path: Path) -> None:
    records = load_coco_json(write_coco(tmp_path), tmp_path, extra_annotation_keys=["area"])
    assert [record["image_id"] for record in records] == [1, 2, 3, 4]
    first = records[0]
    assert first["file_name"] == str(tmp_path / "1.png")
    assert (first["height"], first["width"]) == (40, 60)
    # Classes by the order of the category ids: dog is 3, cat is 7.
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]
    assert first["annotations"][0] == {
        "bbox": [4, 6, 16, 18],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
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
