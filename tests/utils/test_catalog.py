import copy
from collections.abc import Iterator

import pytest

from detexport.errors import DataError
from detexport.utils.catalog import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for name in [name for name in DatasetCatalog.list() if name.startswith("catalog_")]:
        DatasetCatalog.remove(name)
    for name in [name for name in MetadataCatalog.list() if name.startswith("catalog_")]:
        MetadataCatalog.remove(name)


def test_data_sets_are_read_on_get() -> None:
    calls = []
    DatasetCatalog.register("catalog_a", lambda: calls.append(1) or [{"image_id": 1}])
    assert "catalog_a" in DatasetCatalog
    assert not calls
    assert DatasetCatalog.get("catalog_a") == [{"image_id": 1}]
    with pytest.raises(DataError, match=r"registered already; got: 'catalog_a'"):
        DatasetCatalog.register("catalog_a", list)
    DatasetCatalog.remove("catalog_a")
    with pytest.raises(DataError, match=r"unknown data set; got: 'catalog_a'; .*register"):
        DatasetCatalog.get("catalog_a")


def test_metadata_is_set_once() -> None:
    metadata = MetadataCatalog.get("catalog_b")
    assert MetadataCatalog.get("catalog_b") is metadata
    metadata.thing_classes = ["cat"]
    metadata.set(label_divisor=1000, thing_classes=["cat"])
    assert metadata.thing_classes == ["cat"]
    assert metadata.get("label_divisor") == 1000
    assert metadata.get("stuff_classes", ()) == ()
    assert metadata.as_dict() == {"name": "catalog_b", "thing_classes": ["cat"], "label_divisor": 1000}
    with pytest.raises(AttributeError, match=r"'thing_classes' of the data set 'catalog_b' is set already"):
        metadata.thing_classes = ["dog"]
    with pytest.raises(AttributeError, match="has no 'stuff_classes'"):
        _ = metadata.stuff_classes
    assert copy.deepcopy(metadata).as_dict() == metadata.as_dict()
    assert "catalog_b" in repr(metadata)


def test_metadata_that_exists_can_be_asked_for() -> None:
    assert "never mentioned" not in MetadataCatalog
    MetadataCatalog.get("mentioned")
    assert "mentioned" in MetadataCatalog
    MetadataCatalog.remove("mentioned")
