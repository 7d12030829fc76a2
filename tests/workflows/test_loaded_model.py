"""A loaded model's names: numbers until it is given others, of its things or else of its stuff."""

from typing import Any

import pytest

from detexport.errors import ConfigError
from detexport.workflows.given_model import given_model
from detexport.workflows.loaded_model import LoadedModel, number_classes
from small_architectures import small_model


def loaded(name: str) -> LoadedModel:
    return given_model(small_model(name).eval())


@pytest.mark.parametrize(
    ("name", "numbered"),
    [
        ("keypoint_rcnn", {"things": list("01234")}),
        ("semantic_segmentor", {"stuff": list("01234")}),
        ("panoptic_fpn", {"things": list("01234"), "stuff": list("01234")}),
        ("proposal_network", {}),
    ],
)
def test_classes_are_numbered_and_keypoints_are_not(name: str, numbered: dict[str, Any]) -> None:
    assert number_classes(small_model(name)) == numbered


def test_names_are_of_things_where_there_are_things() -> None:
    model = loaded("panoptic_fpn")
    named = model.with_class_names(tuple("abcde"))
    assert named.contract.class_names == tuple("abcde")
    assert named.contract.stuff_class_names == model.contract.stuff_class_names == tuple("01234")


def test_names_are_of_stuff_where_there_is_nothing_else() -> None:
    named = loaded("semantic_segmentor").with_class_names(list("abcde"))
    assert (named.contract.class_names, named.contract.stuff_class_names) == ((), tuple("abcde"))


def test_a_model_without_classes_takes_no_names() -> None:
    with pytest.raises(ConfigError, match=r"1 names: a; expected: 0 things.*--class-names"):
        loaded("proposal_network").with_class_names(["a"])


def test_the_model_with_other_names_shares_all_else() -> None:
    model = loaded("keypoint_rcnn")
    named = model.with_class_names(tuple("abcde"))
    assert named.net is model.net
    assert named.provenance == model.provenance
    assert model.contract.class_names == tuple("01234")
    assert named.contract.keypoint_names == ()
