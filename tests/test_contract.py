import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from pycocotools.cocoeval import Params

from detexport.contract import (
    DETECTION_OUTPUTS,
    OUTPUT_SIZE,
    Contract,
    ResizeRule,
    checked_names,
    keypoint_output,
    mask_output,
)
from detexport.errors import ArtifactError, ConfigError, ExportError
from tiny_artifacts import KINDS, tiny_contract


def test_json_round_trip() -> None:
    contract = tiny_contract(pixel_mean=(103.53, 116.28, 123.675), channel_order="BGR")
    again = Contract.from_json(json.loads(json.dumps(contract.to_json())))
    assert again == contract
    assert hash(again) == hash(contract)
    assert again.inputs[0].shape == (3, "H", "W")
    assert again.resize == ResizeRule(40, 64)


def test_a_resize_rule_has_one_wording() -> None:
    assert ResizeRule(40, 64).text == "shortest edge to 40 px, longest at most 64 px"
    assert ResizeRule(0, 1333).text == "none: images keep their size", "the longest edge has no limit then"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_survives_json(kind: str) -> None:
    contract = tiny_contract(**KINDS[kind])
    assert Contract.from_json(json.loads(json.dumps(contract.to_json()))) == contract


def test_a_contract_from_before_there_were_kinds_is_read() -> None:
    value = tiny_contract().to_json()
    for key in ("stuff_class_names", "keypoint_names", "keypoint_sigmas", "panoptic"):
        del value[key]
    assert Contract.from_json(value) == tiny_contract()


def test_sigmas_are_those_that_are_given_or_cocos() -> None:
    def contract(keypoints: int, **given: Any) -> Contract:
        return tiny_contract(outputs=(*DETECTION_OUTPUTS, keypoint_output(keypoints)), **given)

    assert contract(2).oks_sigmas == tiny_contract().oks_sigmas == ()
    assert contract(2, keypoint_sigmas=(0.1, 0.2)).oks_sigmas == (0.1, 0.2)
    assert contract(17, keypoint_sigmas=(0.1,) * 17).oks_sigmas == (0.1,) * 17
    assert contract(17).oks_sigmas == pytest.approx(Params(iouType="keypoints").kpt_oks_sigmas)


@pytest.mark.parametrize(
    ("kind", "results", "rows"),
    [
        ("instances", ("instances",), ("pred_boxes", "scores", "pred_classes", "pred_masks")),
        ("semantic", ("sem_seg",), ()),
        ("proposals", ("proposals",), ("proposal_boxes", "objectness_logits")),
        (
            "panoptic",
            ("instances", "sem_seg", "panoptic_seg"),
            ("pred_boxes", "scores", "pred_classes", "pred_masks"),
        ),
    ],
)
def test_results_follow_from_the_outputs(kind: str, results: tuple[str, ...], rows: tuple[str, ...]) -> None:
    contract = tiny_contract(**KINDS[kind])
    assert (contract.results, contract.row_names) == (results, rows)


def test_output_names_are_in_the_graphs_order() -> None:
    assert tiny_contract().output_names == ("pred_boxes", "scores", "pred_classes", "pred_masks")
    assert replace(tiny_contract(), outputs=DETECTION_OUTPUTS).output_names == (
        "pred_boxes",
        "scores",
        "pred_classes",
    )
    assert mask_output(28).shape == ("R", 28, 28)


def test_a_contract_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_contract().score_threshold = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("key", ["inputs", "resize", "class_names", "score_threshold"])
def test_a_contract_without_a_key_is_none(key: str) -> None:
    value = tiny_contract().to_json()
    del value[key]
    with pytest.raises(ValueError, match=rf"contract\.{key}: missing"):
        Contract.from_json(value)


def test_a_contract_with_an_unknown_key_is_none() -> None:
    with pytest.raises(ValueError, match=r"contract\.more: unknown field"):
        Contract.from_json({**tiny_contract().to_json(), "more": 1})


def test_a_pasted_graph_takes_the_wanted_size_and_gives_all_in_it() -> None:
    raw = tiny_contract(**KINDS["panoptic"])
    pasted = raw.ending("pasted")
    assert (raw.graph_end, pasted.graph_end) == ("raw", "pasted")
    assert pasted.inputs == (*raw.inputs, OUTPUT_SIZE)
    assert (pasted.output_names, pasted.results) == (raw.output_names, raw.results)
    specs = {spec.name: spec for spec in pasted.outputs}
    assert (specs["pred_masks"].dtype, specs["pred_masks"].shape) == ("bool", ("R", "height", "width"))
    assert specs["sem_seg"].shape == (3, "height", "width")
    assert specs["pred_boxes"].meaning == "x0, y0, x1, y1 in px of the output"
    assert replace(pasted, inputs=raw.inputs, outputs=raw.outputs) == raw
    assert Contract.from_json(json.loads(json.dumps(pasted.to_json()))) == pasted
    assert (raw.ending("raw"), pasted.ending("pasted")) == (raw, pasted)


def test_a_graph_has_two_ends_and_no_way_back() -> None:
    with pytest.raises(ExportError, match="cannot have this end; got: graph_end: 'middle'"):
        tiny_contract().ending("middle")
    with pytest.raises(ExportError, match="cannot have this end; got: graph_end: 'raw' of a pasted graph"):
        tiny_contract().ending("pasted").ending("raw")


@pytest.mark.parametrize("names", [("cat", 1), (True,), (None,), ("",), (" ",), "cat", None, {"cat": 1}])
@pytest.mark.parametrize("kind", ["class_names", "stuff_class_names", "keypoint_names"])
def test_names_are_texts(kind: str, names: Any) -> None:
    with pytest.raises(ConfigError, match=rf"the {kind} of a contract are not .*; got: .*; remedy: "):
        tiny_contract(**{kind: names})
    value = {
        **tiny_contract().to_json(),
        kind: names if isinstance(names, str | None | dict) else list(names),
    }
    with pytest.raises((ConfigError, ValueError), match=kind):
        Contract.from_json(value)


def test_a_class_without_a_name() -> None:
    contract = tiny_contract(class_names=("a", "b"))
    assert [contract.class_name(index) for index in (0, 1)] == ["a", "b"]
    with pytest.raises(ArtifactError, match="got: class index 2 with 2 names: a, b"):
        contract.class_name(2)
    assert tiny_contract(class_names=()).class_name(7) == "class 7"
    assert contract.class_name(7, stuff=True) == "class 7"


def test_equal_contracts_have_no_differences() -> None:
    assert tiny_contract().differences(tiny_contract()) == ()


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"score_threshold": 0.5}, ["score_threshold: 0.25 here, 0.5 there"]),
        ({"resize": ResizeRule(40, 100)}, ["resize.max_size: 64 here, 100 there"]),
        ({"class_names": ("a", "b")}, ["class_names: ('circle', 'square', 'star') here, ('a', 'b') there"]),
        (
            {"outputs": (*DETECTION_OUTPUTS, mask_output(14))},
            ["outputs.pred_masks.shape: ('R', 28, 28) here, ('R', 14, 14) there"],
        ),
        (
            {"outputs": DETECTION_OUTPUTS, "max_detections": 1},
            [
                "outputs: ('pred_boxes', 'scores', 'pred_classes', 'pred_masks') here, "
                "('pred_boxes', 'scores', 'pred_classes') there",
                "max_detections: 10 here, 1 there",
            ],
        ),
    ],
    ids=str,
)
def test_differences_name_each_field_and_both_values(changes: dict[str, Any], lines: list[str]) -> None:
    assert list(tiny_contract().differences(tiny_contract(**changes))) == lines


def test_of_long_lists_the_first_difference_is_named() -> None:
    names = tuple(f"class {index}" for index in range(1203))
    others = (*names[:1000], "x", *names[1001:1202], "y")
    here, there = tiny_contract(class_names=names), tiny_contract(class_names=others)
    assert here.differences(there) == ("class_names[1000]: 'class 1000' here, 'x' there, and 1 more",)
    assert here.differences(tiny_contract()) == (
        "class_names: 1203 items here, ('circle', 'square', 'star') there",
    )


def test_the_number_of_classes_is_in_a_manifest_where_it_is_known() -> None:
    assert "num_classes" not in tiny_contract().to_json()
    contract = tiny_contract(num_classes=3)
    assert Contract.from_json(contract.to_json()) == contract
    with pytest.raises(ValueError, match=r"contract\.class_names: 3, expected 4, one for each"):
        Contract.from_json(replace(contract, num_classes=4).to_json())


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["cat", "\ud800"], r"'\\ud800', which UTF-8 cannot encode"),
        (["cat", " "], "an empty name"),
        (["cat", 1], "1, which is not a string"),
    ],
)
def test_what_cannot_name_a_class_is_named(names: list[Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"the names are not names of classes; got: {wrong}"):
        checked_names(names, "the names")
