"""The user's annotated images: the classes of a contract, evenly chosen images, the training split."""

import json
from pathlib import Path

import pytest

from detexport.errors import DataError, MissingAnnotationsError
from detexport.workflows.validation_data import choose_records, load_annotated, load_dataset, training_images
from synthetic_shapes import synthetic_shapes
from tiny_artifacts import KINDS, tiny_contract

NAMES = ("circle", "rectangle", "triangle", "star", "ring")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=2, val_images=5, sizes=[(48, 64)]).write(folder)
    return folder


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (NAMES, NAMES),
        ((), NAMES),
        (("0", "1", "2", "3", "4"), NAMES),
        (("star", "circle"), ("star", "circle")),
    ],
)
def test_classes_are_those_of_the_contract_by_name_or_by_number(
    data: Path, names: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    assert load_annotated(data, tiny_contract(class_names=names)).class_names == kept


@pytest.mark.parametrize("names", [("circle", "dog"), ("0", "1"), ("Circle",)])
def test_a_data_set_of_other_classes_is_refused(data: Path, names: tuple[str, ...]) -> None:
    message = rf"does not have the classes of .*got: 5 categories: circle.*expected: {len(names)}: {names[0]}"
    with pytest.raises(MissingAnnotationsError, match=message):
        load_annotated(data, tiny_contract(class_names=names))


def test_images_are_chosen_evenly_and_no_more_than_there_are(data: Path) -> None:
    contract = tiny_contract(class_names=NAMES)
    assert [one.image_id for one in choose_records(data, contract, 2)] == [1, 3]
    assert len(choose_records(data, contract, 99)) == 5


def test_images_of_a_model_of_keypoints_need_no_keypoints_unless_it_is_evaluated(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").symlink_to(data / "images")
    (tmp_path / "annotations").mkdir()
    for name in ("instances_val.json",):
        (tmp_path / "annotations" / name).symlink_to(data / "annotations" / name)
    contract = tiny_contract(**KINDS["keypoints"])
    assert len(choose_records(tmp_path, contract, 9)) == 5
    with pytest.raises(DataError, match=r"keypoints_val\.json"):
        load_annotated(tmp_path, contract)


def test_a_split_without_an_image_is_refused(data: Path, tmp_path: Path) -> None:
    value = json.loads((data / "annotations/instances_val.json").read_text())
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images/val").mkdir(parents=True)
    empty = {**value, "images": [], "annotations": []}
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(empty))
    with pytest.raises(DataError, match="no image"):
        choose_records(tmp_path, tiny_contract(), 1)


def test_an_image_of_another_size_than_its_record_is_named(data: Path, tmp_path: Path) -> None:
    value = json.loads((data / "annotations/instances_val.json").read_text())
    value["images"][0]["height"] += 1
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(data / "images")
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=value["images"][0]["file_name"]):
        load_dataset(tmp_path)


def test_training_images_are_those_of_their_split_or_none(data: Path, tmp_path: Path) -> None:
    found = training_images(data)
    assert len(found) == 2
    assert {path.parent for path in found} == {data / "images/train"}
    (tmp_path / "images/val").mkdir(parents=True)
    assert training_images(tmp_path) == []
