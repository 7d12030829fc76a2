import pytest
import torch
import torch.nn.functional as F

from detexport.errors import InputError
from detexport.structures import ImageList
from detexport.structures.image_list import pad_images

SIZES = [(32, 64), (33, 65), (1, 1), (31, 32), (63, 97)]


@pytest.mark.parametrize("divisibility", [0, 1, 32])
@pytest.mark.parametrize("size", SIZES)
def test_padding_against_torch(size: tuple[int, int], divisibility: int) -> None:
    image = torch.rand(3, *size) + 1
    batch, sizes = pad_images([image], divisibility)
    step = max(divisibility, 1)
    bottom, right = (-size[0] % step, -size[1] % step)
    assert sizes == [size]
    assert torch.equal(batch, F.pad(image, [0, right, 0, bottom])[None])


def test_a_batch_has_the_largest_height_and_the_largest_width() -> None:
    images = [torch.rand(3, 20, 50), torch.rand(3, 40, 10)]
    batch = ImageList.from_tensors(images, 32)
    assert batch.tensor.shape == (2, 3, 64, 64)
    assert batch.image_sizes == [(20, 50), (40, 10)]
    assert len(batch) == 2
    for index, image in enumerate(images):
        assert torch.equal(batch[index], image)
    # The padding is zero.
    assert batch.tensor.sum() == pytest.approx(float(sum(image.sum() for image in images)), rel=1e-5)


def test_padding_constraints() -> None:
    images = [torch.ones(3, 20, 50), torch.ones(3, 40, 10)]
    square = ImageList.from_tensors(images, 32, padding_constraints={"square_size": 60})
    assert square.tensor.shape == (2, 3, 64, 64)
    assert square.image_sizes == [(20, 50), (40, 10)]
    assert square.tensor.sum() == 3 * (20 * 50 + 40 * 10)
    constraints = {"size_divisibility": 16, "square_size": 0}
    batch = ImageList.from_tensors(images, 32, pad_value=-1.0, padding_constraints=constraints)
    assert batch.tensor.shape == (2, 3, 48, 64)
    assert (batch.tensor[0, :, 20:] == -1).all()
    with pytest.raises(InputError, match="got: a side of 50 px; expected: at most 30 px, square_size 30"):
        ImageList.from_tensors(images, padding_constraints={"square_size": 30})
    with pytest.warns(UserWarning, match="50 px is cropped to 30 px"):
        cropped = ImageList.from_tensors(images[:1], padding_constraints={"square_size": 30})
    assert cropped.image_sizes == [(20, 50)]
    assert cropped.tensor.shape == (1, 3, 30, 30)
    assert cropped.tensor.sum() == 3 * 20 * 30
    # The side is rounded up before it is compared with the images.
    fitting = ImageList.from_tensors(images, 32, padding_constraints={"square_size": 40})
    assert fitting.tensor.shape == (2, 3, 64, 64)
    assert fitting.tensor.sum() == 3 * (20 * 50 + 40 * 10)
    with pytest.raises(ValueError, match="'square'"):
        ImageList.from_tensors(images, padding_constraints={"square": 30})


def test_semantic_labels_are_padded_too() -> None:
    maps = [torch.ones(4, 6, dtype=torch.long), torch.ones(5, 3, dtype=torch.long)]
    batch = ImageList.from_tensors(maps, pad_value=255)
    assert batch.tensor.shape == (2, 5, 6)
    assert batch.tensor.dtype == torch.long
    assert (batch.tensor == 255).sum() == 2 * 30 - 24 - 15
    assert torch.equal(batch[1], maps[1])


def test_no_image() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        ImageList.from_tensors([])


def test_script_pads_as_eager_does() -> None:
    scripted = torch.jit.script(pad_images)
    for size in SIZES:
        images = [torch.rand(3, *size), torch.rand(3, 40, 40)]
        eager, eager_sizes = pad_images(images, 32)
        batch, sizes = scripted(images, 32)
        assert sizes == eager_sizes
        assert torch.equal(batch, eager)


def test_a_trace_accepts_any_size() -> None:
    class Pad(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return pad_images([image], 32)[0]

    traced = torch.jit.trace(Pad(), torch.rand(3, 40, 40))
    for size in SIZES:
        image = torch.rand(3, *size)
        assert torch.equal(traced(image), Pad()(image))
