"""Drawing of scenes: bright shapes that overlap on muted textured ground.

A seed gives the same pixels on every machine: random numbers are integers, vertices are rounded so that the
last bit of ``cos`` has no effect, and PIL fills polygons from integer vertices.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

THINGS = ("circle", "rectangle", "triangle", "star", "ring")
STUFF = ("stripes", "checks", "speckle")
KEYPOINTS = ("center", "top", "right", "bottom", "left")

PLACEMENT_TRIES = 20
MIN_VISIBLE_PERCENT = 65
RING_HOLE = 0.5
STAR_NOTCH = 0.42
TRIANGLE_BASE = (0.92, 0.75)
# Saturated and bright, so that a shape contrasts with the ground and with shapes that it overlaps.
THING_COLORS = (
    (235, 60, 60),
    (60, 200, 70),
    (70, 110, 245),
    (240, 215, 50),
    (225, 80, 225),
    (60, 215, 220),
    (245, 145, 40),
    (235, 235, 235),
)

Point = tuple[float, float]
Pixel = tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """A placed thing, without regard to things in front of it.

    Args:
        kind: index into ``THINGS``.
        outline: vertices in px.
        hole: vertices of a ring's hole, else empty.
        keypoints: x, y in px in the order of ``KEYPOINTS``; may lie outside the image.
    """

    kind: int
    outline: tuple[Pixel, ...]
    hole: tuple[Pixel, ...]
    keypoints: tuple[Pixel, ...]


@dataclass(frozen=True)
class Scene:
    """An image and its ground truth.

    Args:
        image: uint8 (H, W, 3), RGB.
        instance_map: int64 (H, W); 0 is ground, i + 1 is ``shapes[i]``.
        stuff_map: int64 (H, W), index into ``STUFF``; meaningful where ``instance_map`` is 0.
        shapes: from back to front; each has visible pixels.
    """

    image: np.ndarray
    instance_map: np.ndarray
    stuff_map: np.ndarray
    shapes: tuple[Shape, ...]


def draw_scene(
    rng: np.random.Generator, height: int, width: int, objects: int, object_px: tuple[int, int]
) -> Scene:
    """Draw a scene of at most ``objects`` things, each ``object_px[0]`` to ``object_px[1]`` px across.

    A thing is left out if each tried position hides too much of another thing.
    """
    stuff_map = _draw_stuff_map(rng, height, width)
    image = np.zeros((height, width, 3), dtype=np.int64)
    for kind in range(len(STUFF)):
        _paint(image, stuff_map == kind, rng.integers(35, 115, 3), 32, _texture(rng, kind, height, width))

    instance_map = np.zeros((height, width), dtype=np.int64)
    shapes: list[Shape] = []
    areas: list[int] = []
    colors = rng.permutation(len(THING_COLORS))
    for color in colors[:objects]:
        for _ in range(PLACEMENT_TRIES):
            shape = _place_shape(rng, height, width, object_px)
            mask = _fill(shape, height, width)
            if _leaves_visible(instance_map, areas, mask):
                instance_map[mask] = len(shapes) + 1
                shapes.append(shape)
                areas.append(int(mask.sum()))
                texture = _texture(rng, int(rng.integers(len(STUFF))), height, width)
                _paint(image, mask, np.array(THING_COLORS[color]), -40, texture)
                break
    image += rng.integers(-6, 7, (height, width, 1))
    return Scene(image.clip(0, 255).astype(np.uint8), instance_map, stuff_map, tuple(shapes))


def _draw_stuff_map(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw one to three kinds of ground, separated by straight lines through the middle of the image."""
    y, x = np.mgrid[:height, :width]
    kinds = rng.permutation(len(STUFF))
    stuff_map = np.full((height, width), kinds[0])
    for kind in kinds[1 : rng.integers(1, len(STUFF) + 1)]:
        normal_x, normal_y = rng.integers(-10, 11, 2)
        x0, y0 = rng.integers(width // 4, 3 * width // 4), rng.integers(height // 4, 3 * height // 4)
        stuff_map[(x - x0) * normal_x + (y - y0) * normal_y > 0] = kind
    return stuff_map


def _texture(rng: np.random.Generator, kind: int, height: int, width: int) -> np.ndarray:
    """Draw a pattern of two shades, bool (H, W)."""
    y, x = np.mgrid[:height, :width]
    period = int(rng.integers(4, 9))
    if STUFF[kind] == "stripes":
        step_x, step_y = rng.permutation((int(rng.integers(-2, 3)), 2))
        return (step_x * x + step_y * y) // (2 * period) % 2 == 1
    if STUFF[kind] == "checks":
        return (x // period + y // period) % 2 == 1
    return rng.integers(0, 4, (height, width)) == 0


def _paint(
    image: np.ndarray, mask: np.ndarray, color: np.ndarray, contrast: int, texture: np.ndarray
) -> None:
    image[mask] = color + contrast * texture[mask][:, None]


def _place_shape(rng: np.random.Generator, height: int, width: int, object_px: tuple[int, int]) -> Shape:
    """Draw a shape of random class, size, position and rotation; it may extend beyond the image."""
    kind = int(rng.integers(len(THINGS)))
    radius = int(rng.integers(object_px[0], object_px[1] + 1)) / 2
    margin = min(int(radius * 0.7), height // 2 - 1, width // 2 - 1)
    center = (int(rng.integers(margin, width - margin)), int(rng.integers(margin, height - margin)))
    degrees = int(rng.integers(-25, 26))
    aspect = int(rng.integers(50, 91)) / 100
    upright = bool(rng.integers(2))

    outline, hole, keypoints = _unit_shape(THINGS[kind], (aspect, 1.0) if upright else (1.0, aspect))
    if THINGS[kind] in ("circle", "ring"):
        degrees = 0  # a rotation would be invisible, and its keypoints could not be learned
    moved = [_to_pixels(points, center, radius, degrees) for points in (outline, hole, keypoints)]
    return Shape(kind, *moved)


def _unit_shape(name: str, half_size: Point) -> tuple[list[Point], list[Point], list[Point]]:
    """Return outline, hole and keypoints of a shape of radius 1, y down; ``half_size``: of rectangles."""
    ends = [(0.0, 0.0), (0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]
    if name == "circle":
        return _star(40, 1.0), [], ends
    if name == "ring":
        return _star(40, 1.0), _star(40, RING_HOLE), ends
    if name == "rectangle":
        x, y = half_size
        return [(-x, -y), (x, -y), (x, y), (-x, y)], [], [(x * u, y * v) for u, v in ends]
    if name == "triangle":
        x, y = TRIANGLE_BASE
        return [(0.0, -1.0), (x, y), (-x, y)], [], [(0.0, 0.0), (0.0, -1.0), (x, y), (0.0, y), (-x, y)]
    tips = _star(10, 1.0)
    outline = [
        tip if i % 2 == 0 else (STAR_NOTCH * tip[0], STAR_NOTCH * tip[1]) for i, tip in enumerate(tips)
    ]
    return outline, [], [(0.0, 0.0), outline[0], outline[2], outline[5], outline[8]]


def _star(points: int, radius: float) -> list[Point]:
    """Return points at equal angles, clockwise from the top."""
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for angle in angles]


def _to_pixels(points: list[Point], center: Pixel, radius: float, degrees: int) -> tuple[Pixel, ...]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple(
        (
            _nearest(center[0] + radius * (cos * x - sin * y)),
            _nearest(center[1] + radius * (sin * x + cos * y)),
        )
        for x, y in points
    )


def _nearest(value: float) -> int:
    # Halves are rounded up, even if the last bit of a cosine makes them slightly less than halves.
    return math.floor(round(value, 6) + 0.5)


def _fill(shape: Shape, height: int, width: int) -> np.ndarray:
    """Rasterize a shape, bool (H, W)."""
    canvas = Image.new("1", (width, height))
    pen = ImageDraw.Draw(canvas)
    pen.polygon(shape.outline, fill=1)
    if shape.hole:
        pen.polygon(shape.hole, fill=0)
    return np.asarray(canvas, dtype=bool)


def _leaves_visible(instance_map: np.ndarray, areas: list[int], mask: np.ndarray) -> bool:
    """Return whether all earlier shapes keep enough visible area behind ``mask``."""
    visible = np.bincount(instance_map[~mask], minlength=len(areas) + 1)[1:]
    return all(100 * int(v) >= MIN_VISIBLE_PERCENT * area for v, area in zip(visible, areas, strict=True))
