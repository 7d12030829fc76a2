"""One input of a model: what is not an image, or requests no output, is an error that says what it is."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from detexport.contract import MAX_SIDE
from detexport.errors import InputError
from detexport.structures.model_input import checked_image, output_size

IMAGE = torch.full((3, 64, 96), 9, dtype=torch.uint8)
NAN = IMAGE.float()
NAN[1, 5, 7:9] = torch.tensor([torch.nan, torch.inf])
BAD: dict[str, tuple[Any, str]] = {
    "no dict": (IMAGE, "input 1 has no image; got: Tensor"),
    "no image": ({"sem_seg": 1, "height": 5}, r"input 1 has no image; got: keys \['height', 'sem_seg'\]"),
    "an array": (
        {"image": IMAGE.numpy()},
        r"input 1 has no image; got: ndarray; .*remedy: convert .* torch\.as_tensor",
    ),
    "none": ({"image": None}, "input 1 has no image; got: NoneType"),
    "rank 2": ({"image": IMAGE[0]}, r"image 1 has a wrong shape; got: \(64, 96\); expected: \(3, height"),
    "rank 4": ({"image": IMAGE[None]}, r"got: \(1, 3, 64, 96\); expected: \(3, height"),
    "channels last": ({"image": IMAGE.permute(1, 2, 0)}, r"got: \(64, 96, 3\); .*channels first"),
    "one channel": ({"image": IMAGE[:1]}, r"got: \(1, 64, 96\)"),
    "no height": ({"image": IMAGE[:, :0]}, r"got: \(3, 0, 96\); .*at least 1 px"),
    "no width": ({"image": IMAGE[:, :, :0]}, r"got: \(3, 64, 0\); .*at least 1 px"),
    "bool": ({"image": IMAGE > 9}, r"image 1 has an unsupported dtype; got: torch\.bool"),
    "complex": ({"image": IMAGE.to(torch.complex64)}, r"has an unsupported dtype; got: torch\.complex64"),
    "not finite": ({"image": NAN}, "image 1 has values that are not finite; got: 2 times NaN"),
}
BAD_SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "height alone": ({"height": 5}, "both height and width .*got: height: 5; expected"),
    "width alone": ({"width": 5}, "both height and width .*got: width: 5; expected"),
    "height 0": ({"height": 0, "width": 5}, "got: height: 0, width: 5; .*positive"),
    "height below 0": ({"height": -3, "width": 5}, "got: height: -3, width: 5"),
    "half a px": ({"height": 4.5, "width": 5}, r"got: height: 4\.5, width: 5; .*integers"),
    "width none": ({"height": 4, "width": None}, "got: height: 4, width: None"),
    "text": ({"height": "4", "width": 5}, "got: height: '4', width: 5"),
    "too high": ({"height": MAX_SIDE + 1, "width": 5}, f"at most {MAX_SIDE}"),
    "too wide": ({"height": 5, "width": 10**30}, f"at most {MAX_SIDE}"),
    "two heights": ({"height": torch.tensor([4, 4]), "width": 5}, "two positive integers"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_not_an_image_is_refused(fault: str) -> None:
    example, message = BAD[fault]
    with pytest.raises(InputError, match=message):
        checked_image(example, 1, 3)


@pytest.mark.parametrize("fault", BAD_SIZES)
def test_what_is_not_the_size_of_an_output_is_refused(fault: str) -> None:
    sizes, message = BAD_SIZES[fault]
    for check in (output_size, lambda example: checked_image(example, 0, 3)):
        with pytest.raises(InputError, match=message):
            check({"image": IMAGE, **sizes})


def test_messages_stay_on_one_line() -> None:
    sizes = [({"image": IMAGE, **sizes}, "") for sizes, _ in BAD_SIZES.values()]
    for example, _ in [*BAD.values(), *sizes]:
        with pytest.raises(InputError) as caught:
            checked_image(example, 1, 3)
        assert re.fullmatch(r"[^\n]{20,300}", str(caught.value))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_an_image_of_any_real_dtype_is_returned_unchanged(dtype: torch.dtype) -> None:
    image = IMAGE.to(dtype)
    assert checked_image({"image": image}, 0, 3) is image


@pytest.mark.parametrize("channels", [1, 4])
def test_the_number_of_channels_is_the_models(channels: int) -> None:
    image = torch.zeros(channels, 1, 1)
    assert checked_image({"image": image}, 0, channels) is image
    with pytest.raises(InputError, match=rf"expected: \({channels}, height, width\)"):
        checked_image({"image": IMAGE}, 0, channels)


def test_the_output_has_the_images_size_unless_another_is_requested() -> None:
    assert output_size({"image": IMAGE}) == (64, 96)
    assert output_size({"image": IMAGE, "height": 1, "width": MAX_SIDE}) == (1, MAX_SIDE)


def test_a_size_may_be_any_kind_of_integer() -> None:
    height, width = output_size({"image": IMAGE, "height": np.int64(20), "width": torch.tensor(30)})
    assert (height, width) == (20, 30)
    assert {type(height), type(width)} == {int}
