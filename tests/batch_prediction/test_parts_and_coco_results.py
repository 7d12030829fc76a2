"""Parts hold what a model returns, of every kind; COCO's results are read by pycocotools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
import pyarrow.parquet

from detexport.batch_prediction.coco_results import detections_of, require_instances, write_coco
from detexport.batch_prediction.location import Location
from detexport.batch_prediction.parts import (
    Part,
    missing,
    read_errors,
    read_rows,
    schema_of,
    split,
    write_part,
)
from detexport.errors import ConfigError, DataError
from detexport.predictions.predict_images import predict, to_plain
from detexport.runtime.onnxruntime import OnnxRuntime
from tiny_artifacts import KINDS, tiny_contract, tiny_image, write_tiny_onnx


def test_every_image_is_in_one_part() -> None:
    parts = split(list("abcde"), 2)
    assert [part.images for part in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert parts[2].file == "parts/part-0000002.parquet"
    assert split([], 2) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_part_holds_what_the_model_returns(kind: str, tmp_path: Path) -> None:
    write_tiny_onnx(tmp_path / "artifact", kind)
    session = OnnxRuntime(threads=1).open(tmp_path / "artifact")
    contract = session.artifact.contract
    images = {"bright": tiny_image(30, 50), "dark": tiny_image(20, 40, (10, 10, 10))}
    rows = {
        name: {
            "height": image.shape[1],
            "width": image.shape[2],
            **to_plain(predict(session, image), contract),
        }
        for name, image in images.items()
    }
    (tmp_path / "images").mkdir()
    for name in images:
        (tmp_path / "images" / name).write_bytes(name.encode())
    output = Location.of(str(tmp_path / "out"))
    part = Part(0, tuple(images))
    schema = schema_of(contract)
    assert missing([part], output) == [part]
    failed = write_part(
        part,
        Location.of(str(tmp_path / "images")),
        output,
        schema,
        lambda encoded: rows[encoded.decode()],
    )
    assert (failed, missing([part], output)) == ("", [])
    found = {row.pop("image"): row for row in read_rows([part], output)}
    assert {name: {"error": None, **row} for name, row in rows.items()} == found


def test_an_image_that_cannot_be_read_keeps_its_row(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"")
    location, part = Location.of(str(tmp_path)), Part(0, ("here", "missing"))

    def detect(encoded: bytes) -> dict[str, Any]:
        raise DataError("no image")

    assert write_part(part, location, location, schema_of(tiny_contract()), detect) == ""
    errors = dict(read_errors([part], location))
    assert errors["here"] == "no image"
    assert "missing cannot be read" in errors["missing"]
    table = pyarrow.parquet.read_table(tmp_path / part.file)
    assert table.schema.equals(schema_of(tiny_contract()))


def test_a_part_is_not_written_if_an_image_can_be_fetched_later(tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"")
    (tmp_path / "folder").mkdir()  # reading it is an OSError of the system
    location, part = Location.of(str(tmp_path)), Part(0, ("here", "folder"))
    reason = write_part(part, location, location, schema_of(tiny_contract()), lambda _: {})
    assert "folder could not be fetched" in reason
    assert missing([part], location) == [part]


ROWS = [
    {
        "image": "a.png",
        "height": 20,
        "width": 30,
        "boxes": [[1.0, 2.0, 11.0, 8.0], [0.0, 0.0, 4.0, 4.0]],
        "scores": [0.9, 0.5],
        "classes": [2, 0],
        "masks": None,
        "keypoints": None,
    },
    {"image": "b.png", "height": None, "width": None, "boxes": None, "scores": None, "classes": None},
]


def test_pycocotools_reads_the_results(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write_coco(ROWS, tiny_contract(), Location.of(str(tmp_path)))
    coco = COCO(str(tmp_path / "images.json"))
    loaded = coco.loadRes(str(tmp_path / "results.json"))
    assert [one["bbox"] for one in loaded.loadAnns(loaded.getAnnIds(imgIds=[1]))] == [
        [1.0, 2.0, 10.0, 6.0],
        [0.0, 0.0, 4.0, 4.0],
    ]
    (star,) = loaded.loadAnns(loaded.getAnnIds(catIds=coco.getCatIds(catNms=["star"])))
    assert star["score"] == 0.9
    assert coco.loadImgs([2])[0]["file_name"] == "b.png"


def test_no_detection_is_an_empty_list(tmp_path: Path) -> None:
    write_coco(ROWS[1:], tiny_contract(), Location.of(str(tmp_path)))
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_keypoints_are_counted_as_coco_does() -> None:
    row = {**ROWS[0], "keypoints": [[[3.5, 4.5, 0.7]], [[1.0, 1.0, 0.1]]]}
    assert detections_of(row, 7)[0]["keypoints"] == [3.0, 4.0, 0.7]
    assert np.all([one["image_id"] == 7 for one in detections_of(row, 7)])


def test_a_model_without_instances_has_no_coco_results() -> None:
    with pytest.raises(ConfigError, match="remedy: --format parquet"):
        require_instances(tiny_contract(**KINDS["semantic"]))
