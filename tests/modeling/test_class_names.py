"""The names in a model's contract: as many as the model counts, of each kind."""

from typing import Any

import pytest

from detexport.errors import ConfigError
from detexport.modeling.class_names import count_classes, named_contract
from small_architectures import small_model

COUNTS = {
    "faster_rcnn": {"things": 5},
    "keypoint_rcnn": {"things": 5, "keypoints": 3},
    "semantic_segmentor": {"stuff": 5},
    "panoptic_fpn": {"things": 5, "stuff": 5},
    "proposal_network": {},
}


@pytest.fixture(scope="module", params=COUNTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def net(name: str) -> Any:
    return small_model(name)


def named(net: Any, names: dict[str, Any], sigmas: tuple[float, ...] = ()) -> Any:
    return named_contract(
        net, names, keypoint_sigmas=sigmas, what="the model", remedy="give --class-names {kind}"
    )


def letters(counts: dict[str, int]) -> dict[str, list[str]]:
    return {kind: [f"{kind}{index}" for index in range(count)] for kind, count in counts.items()}


def test_a_model_counts_what_it_outputs(name: str, net: Any) -> None:
    assert count_classes(net) == COUNTS[name]


def test_a_contract_has_the_names_of_each_kind(name: str, net: Any) -> None:
    names = letters(COUNTS[name])
    contract = named(net, names)
    assert contract.class_names == tuple(names.get("things", ()))
    assert contract.stuff_class_names == tuple(names.get("stuff", ()))
    assert contract.keypoint_names == tuple(names.get("keypoints", ()))
    assert contract.num_classes == COUNTS[name].get("things")


@pytest.mark.parametrize("kind", ["things", "stuff", "keypoints"])
def test_another_number_of_names_is_refused(name: str, net: Any, kind: str) -> None:
    count = COUNTS[name].get(kind, 0)
    names = {**letters(COUNTS[name]), kind: ["x"] * (count + 1)}
    message = rf"got: {count + 1} names: x.*expected: {count} {kind}, .*remedy: give --class-names {kind}"
    with pytest.raises(ConfigError, match=message):
        named(net, names)


def test_keypoints_alone_may_have_no_names() -> None:
    net = small_model("keypoint_rcnn")
    assert named(net, {"things": list("abcde"), "keypoints": []}).keypoint_names == ()
    with pytest.raises(ConfigError, match=r"got: 0 names.*expected: 5 things"):
        named(net, {"things": []})


def test_sigmas_are_those_of_the_keypoints(name: str, net: Any) -> None:
    names, keypoints = letters(COUNTS[name]), COUNTS[name].get("keypoints", 0)
    assert named(net, names, (0.25, 0.5, 1)).keypoint_sigmas == ((0.25, 0.5, 1.0) if keypoints else ())
    if keypoints:
        with pytest.raises(ConfigError, match="2 sigmas; expected: 3, one for each keypoint"):
            named(net, names, (0.25, 0.5))


@pytest.mark.parametrize(
    ("names", "got"), [("abcde", "'abcde'"), (None, "None"), ([1, 2, 3, 4, 5], "1, which")]
)
def test_names_that_are_not_texts_are_refused(names: Any, got: str) -> None:
    with pytest.raises(ConfigError, match=f"the names of the model's things .*got: {got}"):
        named(small_model("faster_rcnn"), {"things": names})
