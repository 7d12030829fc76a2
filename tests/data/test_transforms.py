import numpy as np
import pytest
from PIL import Image

from detexport.contract import ResizeRule
from detexport.data import resize_image, resized_size
from detexport.data import transforms as T

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
POINTS = np.array([[0.0, 0.0], [10.0, 4.0], [50.0, 40.0]])


@pytest.fixture(autouse=True)
def _seed() -> None:
    np.random.seed(0)


def test_flips_of_pixels_and_points_agree() -> None:
    for transform, expected in (
        (T.HFlipTransform(50), [[50, 0], [40, 4], [0, 40]]),
        (T.VFlipTransform(40), [[0, 40], [10, 36], [50, 0]]),
    ):
        assert transform.apply_coords(POINTS).tolist() == expected
        np.testing.assert_array_equal(transform.apply_image(transform.apply_image(IMAGE)), IMAGE)
        moved = transform.apply_image(IMAGE)
        x, y = (transform.apply_coords(np.array([[12.5, 7.5]])) - 0.5).astype(int)[0]
        assert moved[y, x].tolist() == IMAGE[7, 12].tolist()


def test_transformed_boxes_are_valid() -> None:
    box = [[10, 4, 30, 20]]
    assert T.HFlipTransform(50).apply_box(box).tolist() == [[20, 4, 40, 20]]
    assert T.ResizeTransform(40, 50, 80, 50).apply_box(box).tolist() == [[10, 8, 30, 40]]
    assert T.CropTransform(5, 2, 10, 10).apply_box(np.array(box)).tolist() == [[5, 2, 25, 18]]
    assert T.NoOpTransform().apply_box(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("size", [(20, 31), (80, 75), (33, 99)])
def test_resize_of_images_and_labels(size: tuple[int, int]) -> None:
    transform = T.ResizeTransform(40, 50, *size)
    expected = resize_image(IMAGE.transpose(2, 0, 1), size).transpose(1, 2, 0)
    np.testing.assert_array_equal(transform.apply_image(IMAGE), expected)
    labels = IMAGE[:, :, 0]
    nearest = Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(transform.apply_segmentation(labels), np.asarray(nearest))
    assert transform.apply_segmentation(labels > 9).dtype == bool
    assert transform.apply_coords(POINTS)[-1].tolist() == [size[1], size[0]]


@pytest.mark.parametrize(("length", "longest"), [(80, 1333), (80, 90), (20, 1333), (0, 10)])
def test_the_shortest_edge_follows_the_rule(length: int, longest: int) -> None:
    transform = T.ResizeShortestEdge(length, longest).get_transform(IMAGE)
    expected = resized_size(40, 50, ResizeRule(length, longest))
    assert transform.apply_image(IMAGE).shape[:2] == expected


def test_the_length_of_the_shortest_edge_is_drawn() -> None:
    choice = T.ResizeShortestEdge((30, 60), 1333)
    assert {choice.get_transform(IMAGE).apply_image(IMAGE).shape[0] for _ in range(30)} == {30, 60}
    between = T.ResizeShortestEdge((30, 33), 1333, "range")
    assert {between.get_transform(IMAGE).apply_image(IMAGE).shape[0] for _ in range(60)} == {30, 31, 32, 33}
    with pytest.raises(ValueError, match="'choice' or 'range'"):
        T.ResizeShortestEdge(10, 20, "median")
    with pytest.raises(ValueError, match="does not fit"):
        T.ResizeShortestEdge((1, 2, 3), 20, "range")


def test_flips_are_drawn() -> None:
    kinds = [type(T.RandomFlip(0.3).get_transform(IMAGE)).__name__ for _ in range(300)]
    assert 60 < kinds.count("HFlipTransform") < 120
    always = T.RandomFlip(1.0, horizontal=False, vertical=True).get_transform(IMAGE)
    assert isinstance(always, T.VFlipTransform)
    with pytest.raises(ValueError, match="horizontal or vertical"):
        T.RandomFlip(horizontal=True, vertical=True)


@pytest.mark.parametrize(
    ("kind", "size", "low", "high"),
    [
        ("relative", (0.5, 0.5), (20, 25), (20, 25)),
        ("relative_range", (0.5, 0.2), (20, 10), (40, 50)),
        ("absolute", (15, 90), (15, 50), (15, 50)),
        ("absolute_range", (10, 45), (10, 10), (40, 45)),
    ],
)
def test_crops(kind: str, size: tuple[float, float], low: tuple[int, int], high: tuple[int, int]) -> None:
    for _ in range(50):
        transform = T.RandomCrop(kind, size).get_transform(IMAGE)
        part = transform.apply_image(IMAGE)
        assert low[0] <= part.shape[0] <= high[0]
        assert low[1] <= part.shape[1] <= high[1]
        np.testing.assert_array_equal(part[0, 0], IMAGE[transform.y0, transform.x0])
    with pytest.raises(ValueError, match="crop_type"):
        T.RandomCrop("half", (1, 1))


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def test_polygons_are_clipped_to_the_crop() -> None:
    inside, outside = np.array([[2.0, 2], [5, 2], [5, 5]]), np.array([[50.0, 2], [60, 2], [60, 5]])
    across = np.array([[-5.0, 1], [5, 1], [5, 3], [-5, 3]])
    # A U without its bottom: two legs of 2 x 6.
    letter = np.array([[0.0, 2], [2, 2], [2, 10], [6, 10], [6, 2], [8, 2], [8, 12], [0, 12]])
    cropped = T.CropTransform(0, 0, 10, 8).apply_polygons([inside, outside, across, letter])
    assert len(cropped) == 3
    np.testing.assert_array_equal(sorted(cropped[0].tolist()), sorted(inside.tolist()))
    assert [area(polygon) for polygon in cropped] == [4.5, 10, 24]
    moved = T.CropTransform(1, 1, 10, 8).apply_polygons([inside])[0]
    assert moved.min(axis=0).tolist() == [1, 1]


def test_a_list_returns_the_transforms() -> None:
    class Darken(T.Augmentation):
        """A custom augmentation, which gets the inputs that its parameters name."""

        def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> T.Transform:
            assert image.shape[:2] == sem_seg.shape
            return T.HFlipTransform(image.shape[1])

    inputs = T.AugInput(IMAGE, boxes=np.array([[10.0, 4, 30, 20]]), sem_seg=IMAGE[:, :, 0])
    done = inputs.apply_augmentations([T.CropTransform(0, 0, 40, 40), Darken(), T.Resize(80)])
    assert len(done) == 3
    np.testing.assert_array_equal(done.apply_image(IMAGE), inputs.image)
    np.testing.assert_array_equal(done.apply_segmentation(IMAGE[:, :, 0]), inputs.sem_seg)
    assert inputs.image.shape == (80, 80, 3)
    assert inputs.boxes.tolist() == done.apply_box([[10, 4, 30, 20]]).tolist() == [[20, 8, 60, 40]]
    assert done.apply_coords(np.array([[10.0, 4.0]])).tolist() == [[60, 8]]
    assert len(T.TransformList([done, done])) == 6
    assert "HFlipTransform(width=3)" in repr(T.HFlipTransform(3))
