"""What a model is given that it does not take: an error that says so, or the result that is documented."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from detexport.errors import InputError
from detexport.structures import Instances
from small_architectures import OVERRIDES, example, small_model

Example = dict[str, Any]


@pytest.fixture(scope="module", params=OVERRIDES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return small_model(name)


@pytest.fixture
def learns_from(name: str) -> str:
    return "sem_seg" if name == "semantic_segmentor" else "instances"


def without(*keys: str) -> Example:
    return {key: value for key, value in example().items() if key not in keys}


def with_image(image: Any) -> Example:
    return {**example(), "image": image}


IMAGE = example()["image"]
# One fault of each kind; tests/structures/test_model_input.py has them all.
BAD: dict[str, tuple[Example, str]] = {
    "no image": (without("image"), "input 1 has no image; got: keys"),
    "channels last": (with_image(IMAGE.permute(1, 2, 0)), r"got: \(64, 96, 3\); .*channels first"),
    "height alone": ({**example(), "height": 5}, "both height and width .*got: height: 5; expected"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_bad_image_is_an_error_that_says_which(model: Any, mode: str, fault: str) -> None:
    bad, message = BAD[fault]
    model.train(mode == "train")
    with torch.no_grad(), pytest.raises(InputError, match=message):
        model([example(), bad])


@pytest.mark.parametrize(
    ("batch", "got"), [([], "none"), ((), "none"), (example(), "dict"), (IMAGE, "Tensor"), (None, "NoneType")]
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_no_batch_is_an_error(model: Any, mode: str, batch: Any, got: str) -> None:
    model.train(mode == "train")
    with pytest.raises(InputError, match=f"at least one image; got: {got}; expected: a list of dicts"):
        model(batch)


def test_images_are_given_in_dicts(model: Any) -> None:
    model.eval()
    with pytest.raises(InputError, match="input 0 has no image; got: Tensor"):
        model([IMAGE])


def test_every_error_is_a_value_error_too() -> None:
    assert issubclass(InputError, ValueError)


def test_without_ground_truth_nothing_is_learnt(model: Any, learns_from: str) -> None:
    model.train()
    source = "records with sem_seg_file_name.*" if learns_from == "sem_seg" else ""
    expected = f"input 1 has no ground truth; got: keys .*expected: '{learns_from}'.*remedy: .*{source}eval"
    with pytest.raises(InputError, match=expected):
        model([example(), without(learns_from)])


def test_ground_truth_of_another_size(model: Any, learns_from: str) -> None:
    model.train()
    other = {**example(), learns_from: example(height=32)[learns_from]}
    with pytest.raises(InputError, match=r"of input 1 (has|have) another .*size.*\(32, 96\).*\(64, 96\)"):
        model([example(), other])


def test_a_class_that_the_model_does_not_have(model: Any, name: str) -> None:
    if name in ("semantic_segmentor", "proposal_network"):
        assert not hasattr(model, "roi_heads")  # no class of an instance is looked at
        return
    model.train()
    bad = example()
    bad["instances"].gt_classes = torch.tensor([0, 5])
    with pytest.raises(InputError, match=r"input 1 have a class .*from 0 to 5; expected: 0 to 4"):
        model([example(), bad])


def fields_of(result: Example) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in result.items():
        fields |= value.get_fields() if isinstance(value, Instances) else {key: value}
    return fields


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
@torch.no_grad()
def test_an_image_of_one_px_has_a_result_as_any_other(model: Any, size: tuple[int, int]) -> None:
    model.eval()
    tiny = {**example(*size), "height": 20, "width": 30}
    for batch in ([tiny], [tiny, example()]):
        results = model(batch)
        assert len(results) == len(batch)
        fields, usual = fields_of(results[0]), fields_of(model([example()])[0])
        assert fields.keys() == usual.keys()
        for key in ("pred_masks", "sem_seg"):
            if key in fields:
                assert fields[key].shape[1:] == (20, 30)
        for value in fields.values():
            value = value.tensor if hasattr(value, "tensor") else value
            assert not isinstance(value, torch.Tensor) or torch.isfinite(value).all()


REAL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float32": torch.Tensor.float,
    "float64": torch.Tensor.double,
    "int64": torch.Tensor.long,
    "not contiguous": lambda image: image.permute(1, 2, 0).contiguous().permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", REAL)
@torch.no_grad()
def test_real_dtypes_and_layouts_mean_the_same(model: Any, kind: str) -> None:
    model.eval()
    expected, found = (fields_of(model([with_image(image)])[0]) for image in (IMAGE, REAL[kind](IMAGE)))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, found[key])


def test_sizes_may_be_any_whole_numbers(model: Any) -> None:
    model.eval()
    with torch.no_grad():
        (result,) = model([{**example(), "height": np.int64(20), "width": torch.tensor(30)}])
    for value in result.values():
        if isinstance(value, Instances):
            assert value.image_size == (20, 30)
