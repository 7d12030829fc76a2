"""Synthetic data set in COCO's format: drawn in seconds, with the same bytes on every machine."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from detexport.data.synthetic.annotations import (
    IDS_PER_IMAGE,
    KEYPOINT_CATEGORIES,
    PANOPTIC_CATEGORIES,
    THING_CATEGORIES,
    keypoint_annotations,
    panoptic_map,
    panoptic_segments,
    semantic_map,
)
from detexport.data.synthetic.scene import KEYPOINTS, STUFF, THING_COLORS, THINGS, Scene, draw_scene
from detexport.errors import ConfigError
from detexport.system.atomic import atomic_dir

KEYPOINT_FLIP = {"right": "left", "left": "right"}


@dataclass(frozen=True)
class SyntheticShapes:
    """Five kinds of shapes that overlap on three kinds of ground; colours do not depend on the class.

    Args:
        name: name of the data set.
        seed: of the images.
        train_images: number of training images.
        val_images: number of validation images.
        sizes: heights and widths in px; each image draws one.
        object_px: smallest and largest extent of a shape in px.
        max_objects: maximum number of shapes per image.
        min_objects: minimum number of shapes that are tried; 0 draws images without shapes, too.

    Raises:
        ConfigError: a number is out of range.
    """

    name: str
    seed: int
    train_images: int
    val_images: int
    sizes: tuple[tuple[int, int], ...]
    object_px: tuple[int, int]
    max_objects: int
    min_objects: int

    def __post_init__(self) -> None:
        """Check the ranges of the numbers."""
        checks = {
            "train_images": (self.train_images, 0, (1 << 24) // IDS_PER_IMAGE - 1),
            "val_images": (self.val_images, 0, (1 << 24) // IDS_PER_IMAGE - 1),
            "min_objects": (self.min_objects, 0, len(THING_COLORS)),
            "max_objects": (self.max_objects, max(1, self.min_objects), len(THING_COLORS)),
            "object_px": (min(self.object_px), 8, max(self.object_px)),
            "the smallest side in sizes": (min(map(min, self.sizes), default=0), 32, 1 << 14),
        }
        for what, (value, lowest, highest) in checks.items():
            if not lowest <= value <= highest:
                raise ConfigError(
                    f"{what} of the synthetic data set is out of range",
                    got=value,
                    expected=f"{lowest} to {highest}",
                    remedy="change the options of conf/data",
                )

    def write(self, folder: Path) -> None:
        """Write images, annotations and ``dataset.json`` to ``folder``, atomically."""
        counts = {"train": self.train_images, "val": self.val_images}
        with atomic_dir(Path(folder)) as partial:
            for split_index, (split, count) in enumerate(counts.items()):
                self._write_split(partial, split, split_index, count)
            description = {
                "name": self.name,
                "things": list(THINGS),
                "stuff": list(STUFF),
                "keypoints": list(KEYPOINTS),
                "keypoint_flip": KEYPOINT_FLIP,
                "images": counts,
            }
            _write_json(partial / "dataset.json", description, indent=1)

    def _write_split(self, folder: Path, split: str, split_index: int, count: int) -> None:
        for name in (f"images/{split}", f"panoptic_{split}", f"semantic_{split}", "annotations"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        images, keypoints, panoptic = [], [], []
        for image_id in tqdm(range(1, count + 1), desc=f"{self.name} {split}", unit="image", mininterval=1.0):
            # Each image has its own generator, so it does not depend on the number of images.
            scene = self._draw(np.random.default_rng([self.seed, split_index, image_id]))
            height, width = scene.instance_map.shape
            file_name = f"{image_id:06d}.png"
            segment_map = panoptic_map(scene, image_id)
            segment_rgb = np.stack([segment_map >> shift & 255 for shift in (0, 8, 16)], axis=-1)
            _write_png(folder / f"images/{split}" / file_name, scene.image)
            _write_png(folder / f"panoptic_{split}" / file_name, segment_rgb.astype(np.uint8))
            _write_png(folder / f"semantic_{split}" / file_name, semantic_map(scene))
            images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
            keypoints += keypoint_annotations(scene, image_id)
            segments = panoptic_segments(scene, image_id)
            panoptic.append({"image_id": image_id, "file_name": file_name, "segments_info": segments})

        instances = [
            {key: value for key, value in annotation.items() if "keypoints" not in key}
            for annotation in keypoints
        ]
        for kind, annotations, categories in (
            ("instances", instances, THING_CATEGORIES),
            ("keypoints", keypoints, KEYPOINT_CATEGORIES),
            ("panoptic", panoptic, PANOPTIC_CATEGORIES),
        ):
            value = {"images": images, "annotations": annotations, "categories": categories}
            _write_json(folder / f"annotations/{kind}_{split}.json", value)

    def _draw(self, rng: np.random.Generator) -> Scene:
        height, width = self.sizes[rng.integers(len(self.sizes))]
        objects = int(rng.integers(self.min_objects, self.max_objects + 1))
        return draw_scene(rng, height, width, objects, (self.object_px[0], self.object_px[1]))


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=indent) + "\n", encoding="utf-8")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, format="PNG", compress_level=3)
