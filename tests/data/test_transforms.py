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


RGB = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
SPOTS = np.array([[0.0, 0.0], [10.0, 6.0], [2.5, 4.0]])


@pytest.mark.parametrize(
    "transform",
    [
        T.NoOpTransform(),
        T.HFlipTransform(10),
        T.VFlipTransform(6),
        T.CropTransform(2, 1, 5, 4, 10, 6),
        T.PadTransform(1, 2, 3, 4, 10, 6),
        T.ResizeTransform(6, 10, 12, 5),
        T.ScaleTransform(6, 10, 12, 5),
        T.RotationTransform(6, 10, 30),
        T.BlendTransform(0, 0.5, 0.5),
        T.TransformList(
            [T.HFlipTransform(10), T.ResizeTransform(6, 10, 3, 5), T.PadTransform(1, 1, 0, 0, 5, 3)]
        ),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_the_inverse_moves_points_back(transform: T.Transform) -> None:
    moved = transform.inverse().apply_coords(transform.apply_coords(SPOTS))
    # The sizes of a rotated image are rounded.
    np.testing.assert_allclose(
        moved, SPOTS, atol=0.51 if isinstance(transform, T.RotationTransform) else 1e-9
    )


def test_what_loses_pixels_has_no_inverse() -> None:
    for transform in (
        T.CropTransform(0, 0, 2, 2),
        T.PadTransform(1, 1, 1, 1),
        T.RotationTransform(6, 10, 30, expand=False),
        T.ExtentTransform((0, 0, 5, 5), (5, 5)),
    ):
        with pytest.raises(NotImplementedError):
            transform.inverse()


def test_a_padding_and_its_crop() -> None:
    padding = T.PadTransform(1, 2, 3, 4, 10, 6, pad_value=7, seg_pad_value=255)
    padded = padding.apply_image(RGB)
    assert padded.shape == (12, 14, 3)
    assert (padded[0] == 7).all()
    assert (padding.apply_segmentation(RGB[..., 0])[:, -1] == 255).all()
    assert np.array_equal(padding.inverse().apply_image(padded), RGB)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_exact_and_counter_clockwise(turns: int) -> None:
    rotation = T.RotationTransform(6, 10, 90 * turns)
    assert np.array_equal(rotation.apply_image(RGB), np.rot90(RGB, turns))
    # The marked corner of the image is where its coordinates say.
    marked = np.zeros((6, 10), np.uint8)
    marked[0, 9] = 1
    row, column = np.argwhere(rotation.apply_segmentation(marked))[0]
    np.testing.assert_allclose(rotation.apply_coords(np.array([[9.5, 0.5]])), [[column + 0.5, row + 0.5]])


def test_a_rotation_around_a_point_keeps_the_size() -> None:
    rotation = T.RotationTransform(6, 10, 180, expand=False, center=(5, 3))
    assert np.array_equal(rotation.apply_image(RGB), RGB[::-1, ::-1])
    np.testing.assert_allclose(
        rotation.apply_coords(np.array([[5, 3], [0, 0]])), [[5, 3], [10, 6]], atol=1e-9
    )
    assert T.RotationTransform(6, 10, 45).apply_image(RGB).shape[:2] == (11, 11)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 1), (6, 10, 5)])
def test_resizes_take_any_channels_and_keep_the_type(dtype: type, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 9, dtype)
    for transform in (T.ResizeTransform(6, 10, 3, 7), T.ScaleTransform(6, 10, 3, 7)):
        resized = transform.apply_image(image)
        assert (resized.shape, resized.dtype) == ((3, 7, *shape[2:]), image.dtype)
        assert (resized == 9).all()


def test_another_filter_of_a_resize() -> None:
    nearest = T.ResizeTransform(6, 10, 12, 20, Image.Resampling.NEAREST).apply_image(RGB)
    assert np.array_equal(nearest, RGB.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(
        T.Resize((12, 20), Image.Resampling.NEAREST).get_transform(RGB).apply_image(RGB), nearest
    )


def test_an_extent_is_a_crop_with_black_around_it() -> None:
    extent = T.ExtentTransform((-2, 0, 3, 6), (6, 5))
    found = extent.apply_image(RGB)
    assert (found[:, :2] == 0).all()
    assert np.array_equal(found[:, 2:], RGB[:, :3])
    np.testing.assert_allclose(extent.apply_coords(np.array([[0.0, 3.0]])), [[2.0, 3.0]])


def test_a_grid_samples_the_image() -> None:
    y, x = np.meshgrid((np.arange(6) + 0.5) / 3 - 1, (np.arange(10) + 0.5) / 5 - 1, indexing="ij")
    grid = T.GridSampleTransform(np.stack((-x, y), axis=2), "bilinear")
    assert np.abs(grid.apply_image(RGB).astype(int) - RGB[:, ::-1]).max() <= 1
    assert np.array_equal(grid.apply_segmentation(RGB[..., 0]), RGB[:, ::-1, 0])


def test_colours_are_blended_and_labels_are_not() -> None:
    blend = T.BlendTransform(100.0, 0.5, 2.0)
    expected = (50 + 2.0 * RGB).clip(0, 255).astype(np.uint8)
    assert np.array_equal(blend.apply_image(RGB), expected)
    assert np.array_equal(blend.apply_segmentation(RGB), RGB)
    assert np.array_equal(T.ColorTransform(lambda image: 255 - image).apply_image(RGB), 255 - RGB)
    inverted = T.PILColorTransform(lambda image: image.point(lambda value: 255 - value)).apply_image(RGB)
    assert np.array_equal(inverted, 255 - RGB)


def test_a_type_of_data_of_ones_own() -> None:
    class Shift(T.Transform):
        def apply_coords(self, coords: np.ndarray) -> np.ndarray:
            return coords + 1

    @Shift.register_type("point")
    def shift_point(transform: Shift, point: tuple[float, float]) -> tuple[float, float]:
        return tuple(transform.apply_coords(np.array([point]))[0])

    assert T.TransformList([Shift(), Shift()]).apply_point((1, 2)) == (3, 4)
    with pytest.raises(AttributeError):
        T.NoOpTransform().apply_point((1, 2))


def test_augmentations_of_an_image_alone() -> None:
    np.random.seed(0)
    image, transforms = T.apply_augmentations([T.RandomFlip(prob=1.0), T.Resize(5)], RGB)
    assert np.array_equal(image, transforms.apply_image(RGB))
    assert image.shape == (5, 5, 3)


@pytest.mark.parametrize(
    ("augmentation", "reference"),
    [
        (T.RandomBrightness(0.5, 0.5), RGB * 0.5),
        (T.RandomContrast(0.5, 0.5), (RGB + RGB.mean()) * 0.5),
        (T.RandomSaturation(0.0, 0.0), RGB @ [0.299, 0.587, 0.114]),
        (T.RandomLighting(0.0), RGB),
    ],
    ids=lambda value: type(value).__name__,
)
def test_colours_by_hand(augmentation: T.Augmentation, reference: np.ndarray) -> None:
    found = augmentation.get_transform(RGB).apply_image(RGB).astype(float)
    reference = reference if reference.ndim == 3 else np.repeat(reference[:, :, None], 3, axis=2)
    assert np.abs(found - reference).max() <= 1


def test_a_crop_of_fixed_size_pads_what_is_smaller() -> None:
    np.random.seed(0)
    values = T.AugInput(RGB, sem_seg=RGB[..., 0])
    T.FixedSizeCrop((8, 4))(values)
    assert values.image.shape == (8, 4, 3)
    assert (values.image[6:] == 128).all()
    assert (values.sem_seg[6:] == 255).all()
    assert T.FixedSizeCrop((8, 4), pad=False).get_transform(RGB).apply_image(RGB).shape == (6, 4, 3)


def test_the_scale_of_a_resize_keeps_the_aspect_ratio() -> None:
    assert T.ResizeScale(0.5, 0.5, 60, 60).get_transform(RGB).apply_image(RGB).shape == (18, 30, 3)
    shapes = {T.RandomResize([(3, 4), (5, 6)]).get_transform(RGB).apply_image(RGB).shape for _ in range(20)}
    assert shapes == {(3, 4, 3), (5, 6, 3)}


def test_a_transform_with_a_probability() -> None:
    np.random.seed(0)
    drawn = [T.RandomApply(T.HFlipTransform(10), 0.3)(T.AugInput(RGB)) for _ in range(300)]
    flips = sum(not isinstance(one, T.NoOpTransform) for one in drawn)
    assert 60 < flips < 120
    with pytest.raises(ValueError, match="0 to 1"):
        T.RandomApply(T.NoOpTransform(), 1.5)


def test_rotations_are_drawn() -> None:
    np.random.seed(0)
    angles = {T.RandomRotation([-10, 10]).get_transform(RGB).angle for _ in range(20)}
    assert len(angles) == 20
    assert all(-10 <= angle <= 10 for angle in angles)
    chosen = {T.RandomRotation([90, 180], sample_style="choice").get_transform(RGB).angle for _ in range(20)}
    assert chosen == {90, 180}
    assert isinstance(T.RandomRotation(360).get_transform(RGB), T.NoOpTransform)
    around = T.RandomRotation(30, expand=False, center=[[0, 0], [0, 0]]).get_transform(RGB)
    np.testing.assert_allclose(around.apply_coords(np.zeros((1, 2))), [[0, 0]], atol=1e-9)


def test_a_crop_of_the_extent_stays_in_its_ranges() -> None:
    np.random.seed(0)
    for _ in range(20):
        transform = T.RandomExtent((0.5, 1.5), (0.2, 0.2)).get_transform(RGB)
        height, width = transform.output_size
        assert 3 <= height <= 9
        assert 5 <= width <= 15
        assert transform.apply_image(RGB).shape == (height, width, 3)


def test_a_crop_overlaps_its_boxes_enough() -> None:
    np.random.seed(0)
    image = np.zeros((100, 120, 3), np.uint8)
    boxes = np.array([[10.0, 10, 110, 90]])
    crops = [T.MinIoURandomCrop(min_ious=(0.5,)).get_transform(image, boxes) for _ in range(30)]
    crops = [crop for crop in crops if isinstance(crop, T.CropTransform)]
    assert crops
    for crop in crops:
        assert crop.w >= 0.3 * 120 - 1
        assert crop.h >= 0.3 * 100 - 1
    assert isinstance(T.MinIoURandomCrop().get_transform(image, None), T.NoOpTransform)


def test_a_crop_holds_no_class_alone() -> None:
    np.random.seed(0)
    labels = np.zeros((40, 40), np.int64)
    labels[:, 20:] = 1
    augmentation = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), single_category_max_area=0.9)
    crops = [augmentation.get_transform(np.zeros((40, 40, 3)), labels) for _ in range(20)]
    shares = [crop.apply_segmentation(labels).mean() for crop in crops]
    assert sum(0.1 < share < 0.9 for share in shares) >= 18


def test_a_limit_of_one_needs_no_labels() -> None:
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10))
    transforms = crop(T.AugInput(np.zeros((40, 40, 3), np.uint8)))
    assert transforms.apply_image(np.zeros((40, 40, 3))).shape == (10, 10, 3)
    np.random.seed(0)
    crop.get_transform(np.zeros((40, 40, 3)), np.zeros((40, 40), np.uint8))
    drawn = np.random.get_state()
    np.random.seed(0)
    T.RandomCrop("absolute", (10, 10)).get_transform(np.zeros((40, 40, 3)))
    assert drawn[2] == np.random.get_state()[2]
    limited = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), single_category_max_area=0.5)
    with pytest.raises(ValueError, match="needs labels, got sem_seg=None"):
        limited(T.AugInput(np.zeros((40, 40, 3), np.uint8)))


def test_helpers_of_custom_transforms_and_augmentations() -> None:
    class Shift(T.Transform):
        def __init__(self, dx: float, dy: float = 2.0) -> None:
            self._set_attributes(locals())

        def apply_coords(self, coords: np.ndarray) -> np.ndarray:
            return coords + np.array([self.dx, self.dy])  # type: ignore[attr-defined]

    class Shifted(T.Augmentation):
        def __init__(self, most: float) -> None:
            self._init(locals())

        def get_transform(self, image: np.ndarray) -> T.Transform:
            return Shift(self._rand_range(self.most))  # type: ignore[attr-defined]

    shift = Shifted(5.0)(T.AugInput(np.zeros((4, 4, 3), np.uint8)))
    assert 0 <= shift.dx < 5  # type: ignore[attr-defined]
    assert Shifted(5.0)._rand_range(2, 3, size=4).shape == (4,)
    both = Shift(1.0) + T.TransformList([T.HFlipTransform(10)])
    assert both.apply_coords(np.array([[1.0, 1.0]])).tolist() == [[8.0, 3.0]]
