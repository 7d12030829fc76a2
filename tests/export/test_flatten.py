import json
from collections import namedtuple

import pytest
import torch

from detexport.errors import ExportError
from detexport.export.flatten import Schema, flatten
from detexport.structures import Boxes, ImageList, Instances

RICH = {
    "images": ImageList(torch.rand(2, 3, 8, 8), [(8, 6), (7, 8)]),
    "found": [
        Instances((8, 6), pred_boxes=Boxes(torch.rand(2, 4)), scores=torch.rand(2)),
        Instances((7, 8), pred_boxes=Boxes(torch.rand(0, 4)), scores=torch.rand(0)),
    ],
    "pair": (torch.ones(1), {"inner": torch.zeros(2)}),
}


def test_a_value_is_built_again_also_from_a_schema_that_was_stored():
    tensors, schema = flatten(RICH)
    stored = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert stored == schema
    assert len(tensors) == schema.count == 11
    again = stored(tensors)
    assert list(again) == list(RICH)
    assert again["images"].image_sizes == RICH["images"].image_sizes
    assert again["images"].tensor is RICH["images"].tensor
    for got, want in zip(again["found"], RICH["found"], strict=True):
        assert got.image_size == want.image_size
        assert got.pred_boxes.tensor is want.pred_boxes.tensor
        assert got.scores is want.scores
    assert isinstance(again["pair"], tuple)
    assert again["pair"][1]["inner"] is RICH["pair"][1]["inner"]


def test_what_is_no_tensor_is_refused_or_left_out():
    value = [{"image": torch.ones(1), "height": 480}]
    with pytest.raises(ExportError, match="int: 480"):
        flatten(value)
    tensors, schema = flatten(value, allow_non_tensor=True)
    assert len(tensors) == schema.count == 1
    with pytest.raises(ExportError, match="cannot be rebuilt"):
        schema(tensors)


def test_too_few_tensors_are_refused():
    tensors, schema = flatten(RICH)
    with pytest.raises(ExportError, match="10 tensors"):
        schema(tensors[1:])


def named(name: str) -> type:
    """A class of somebody else that is called like one of ours."""
    return type(name, (), {"tensor": torch.ones(1, 4)})


@pytest.mark.parametrize("name", ["Boxes", "Instances", "ImageList", "dict", "list", "tuple", "tensor"])
def test_what_is_only_called_like_a_container_is_refused(name: str) -> None:
    value = [named(name)(), torch.ones(1)]
    with pytest.raises(ExportError, match=rf"got: test_flatten\.{name}: <test_flatten"):
        flatten(value)
    tensors, schema = flatten(value, allow_non_tensor=True)
    assert len(tensors) == schema.count == 1
    with pytest.raises(ExportError, match="cannot be rebuilt"):
        schema(tensors)


def test_a_dict_whose_keys_are_no_strings_is_refused() -> None:
    with pytest.raises(ExportError, match="dict with keys that are not strings"):
        flatten({1: torch.ones(1), "two": torch.ones(2)})
    Pair = namedtuple("Pair", "a b")
    with pytest.raises(ExportError, match="Pair"):
        flatten(Pair(torch.ones(1), torch.ones(1)))
