"""COCO annotations of a scene: instances, keypoints, panoptic segments."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from detexport.data.synthetic.scene import KEYPOINTS, STUFF, THINGS, Scene

IDS_PER_IMAGE = 100
"""Annotations and segments of an image are numbered from its id times this number."""

SKELETON = [[1, 2], [1, 3], [1, 4], [1, 5]]
THING_CATEGORIES = [{"id": i, "name": n, "supercategory": "shape"} for i, n in enumerate(THINGS, start=1)]
STUFF_CATEGORIES = [
    {"id": i, "name": n, "supercategory": "ground"} for i, n in enumerate(STUFF, start=len(THINGS) + 1)
]
KEYPOINT_CATEGORIES = [{**c, "keypoints": list(KEYPOINTS), "skeleton": SKELETON} for c in THING_CATEGORIES]
PANOPTIC_CATEGORIES = [
    *({**category, "isthing": 1} for category in THING_CATEGORIES),
    *({**category, "isthing": 0} for category in STUFF_CATEGORIES),
]


def instance_annotations(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Return one annotation per thing, of its visible part: polygons, or RLE if that part has a hole."""
    annotations = []
    for index, shape in enumerate(scene.shapes):
        mask = scene.instance_map == index + 1
        polygons = trace_polygons(mask)
        annotations.append(
            {
                "id": image_id * IDS_PER_IMAGE + index,
                "image_id": image_id,
                "category_id": shape.kind + 1,
                "segmentation": _rle(mask) if polygons is None else polygons,
                "bbox": _bbox(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
        )
    return annotations


def keypoint_annotations(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Return the instances with keypoints x, y, v: 2 visible, 1 hidden by another thing, 0 outside."""
    annotations = instance_annotations(scene, image_id)
    height, width = scene.instance_map.shape
    for index, (annotation, shape) in enumerate(zip(annotations, scene.shapes, strict=True)):
        flat: list[int] = []
        for x, y in shape.keypoints:
            inside = 0 <= x < width and 0 <= y < height
            # Shapes are numbered from back to front: one with a greater number hides this one.
            flat += [x, y, 1 if scene.instance_map[y, x] > index + 1 else 2] if inside else [0, 0, 0]
        annotation["keypoints"] = flat
        annotation["num_keypoints"] = sum(v > 0 for v in flat[2::3])
    return annotations


def panoptic_map(scene: Scene, image_id: int) -> np.ndarray:
    """Return the segment id of each pixel, int64 (H, W): the annotation id of things; stuff follows."""
    first = image_id * IDS_PER_IMAGE
    things = first + scene.instance_map - 1
    return np.where(scene.instance_map > 0, things, first + IDS_PER_IMAGE // 2 + scene.stuff_map)


def panoptic_segments(scene: Scene, image_id: int) -> list[dict[str, Any]]:
    """Return COCO's ``segments_info`` of the segments in ``panoptic_map``."""
    segment_map = panoptic_map(scene, image_id)
    segments = []
    for segment_id in np.unique(segment_map).tolist():
        mask = segment_map == segment_id
        index = segment_id - image_id * IDS_PER_IMAGE
        stuff = index - IDS_PER_IMAGE // 2
        category = STUFF_CATEGORIES[stuff]["id"] if stuff >= 0 else scene.shapes[index].kind + 1
        segments.append(
            {
                "id": segment_id,
                "category_id": category,
                "bbox": _bbox(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
        )
    return segments


def semantic_map(scene: Scene) -> np.ndarray:
    """Return the class of each pixel, uint8 (H, W), as Panoptic FPN needs it: 0 things, 1.. stuff."""
    return np.where(scene.instance_map > 0, 0, scene.stuff_map + 1).astype(np.uint8)


def trace_polygons(mask: np.ndarray) -> list[list[int]] | None:
    """Trace the outlines of a mask along the edges of its pixels.

    Args:
        mask: bool (H, W).

    Returns:
        one polygon ``[x, y, x, y, ...]`` for each 4-connected part, which rasterizes to exactly its pixels;
        None if there is a hole, which polygons cannot represent.
    """
    steps = _edges(mask)
    polygons = []
    while steps:
        start = next(iter(steps))
        polygon, doubled_area = _follow(steps, start)
        if doubled_area < 0:
            return None  # the opposite orientation: the outline of a hole
        polygons.append(polygon)
    return polygons


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the unit steps along the mask's outline from each pixel corner, with the mask to the right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Outside neighbour, corner of the pixel at which the edge begins, direction of the edge.
    for outside, (x0, y0), step in (
        (~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (~padded[1:-1, 2:], (1, 0), (0, 1)),
        (~padded[2:, 1:-1], (1, 1), (-1, 0)),
        (~padded[1:-1, :-2], (0, 1), (0, -1)),
    ):
        for y, x in np.argwhere(inside & outside).tolist():
            steps.setdefault((x + x0, y + y0), []).append(step)
    return steps


def _follow(
    steps: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> tuple[list[int], int]:
    """Follow one closed outline and remove its steps; return its vertices and twice its signed area."""
    polygon: list[int] = []
    doubled_area = 0
    (x, y), (dx, dy) = start, (0, 0)
    while (x, y) in steps:
        choices = steps[x, y]
        # Two pixels that touch only at a corner are separate parts: turn right, around the current pixel.
        step = (-dy, dx) if (-dy, dx) in choices else choices[0]
        choices.remove(step)
        if not choices:
            del steps[x, y]
        if step != (dx, dy):
            polygon += [x, y]
        dx, dy = step
        doubled_area += x * dy - y * dx
        x, y = x + dx, y + dy
        if (x, y) == start:
            break
    return polygon, doubled_area


def _bbox(mask: np.ndarray) -> list[int]:
    """Return COCO's box of a mask: x, y, width, height in px."""
    x, y = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x0, y0 = int(x[0]), int(y[0])
    return [x0, y0, int(x[-1]) + 1 - x0, int(y[-1]) + 1 - y0]


def _rle(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
