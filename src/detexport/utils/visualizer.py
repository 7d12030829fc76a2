"""Drawings of predictions and annotations over an image, by PIL.

A colour is a tuple of numbers in [0, 1], a name or ``"#rrggbb"``. Coordinates are x and y in px of the image.
"""

from collections.abc import Iterable, Sequence
from enum import Enum, unique
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from detexport.structures import BitMasks, Boxes, BoxMode, Keypoints, PolygonMasks, RotatedBoxes
from detexport.utils.colormap import random_color
from detexport.utils.generic_mask import GenericMask, outlines_of

__all__ = ["ColorMode", "GenericMask", "VisImage", "Visualizer"]

Color = Sequence[float] | np.ndarray | str
LETTERS = {
    "b": "blue", "g": "green", "r": "red", "c": "cyan",
    "m": "magenta", "y": "yellow", "k": "black", "w": "white",
}  # fmt: skip
LEAST_VISIBLE_SCORE = 0.05
"""Keypoints with a lower score are not drawn."""


@unique
class ColorMode(Enum):
    """How instances are coloured."""

    IMAGE = 0
    """Each instance in a random colour."""
    SEGMENTATION = 1
    """Instances of one class in the colour of the class, if the metadata has ``thing_colors``."""
    IMAGE_BW = 2
    """As ``IMAGE``, over a grey image that keeps its colours inside the masks."""


class VisImage:
    """An image that is drawn on.

    Args:
        img: (H, W, 3) RGB, 0 to 255.
        scale: factor of the size.
    """

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        self.scale = scale
        self.height, self.width = img.shape[:2]
        pixels = Image.fromarray(np.asarray(img).clip(0, 255).astype(np.uint8))
        size = max(1, round(self.width * scale)), max(1, round(self.height * scale))
        self.canvas = pixels.resize(size) if size != pixels.size else pixels

    def get_image(self) -> np.ndarray:
        """Return the drawing (H, W, 3), uint8 RGB."""
        return np.asarray(self.canvas.convert("RGB"))

    def save(self, filepath: str | Path) -> None:
        """Write the drawing to an image file."""
        self.canvas.convert("RGB").save(filepath)


class Visualizer:
    """Drawer of predictions and annotations over one image.

    Args:
        img_rgb: (H, W, 3) RGB, 0 to 255.
        metadata: of the data set: ``thing_classes``, ``thing_colors``, ``stuff_classes``, ``stuff_colors``,
            ``keypoint_names``, ``keypoint_connection_rules``; None for none.
        scale: factor of the drawing's size.
        instance_mode: how instances are coloured.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Any = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ) -> None:
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = metadata
        self._instance_mode = instance_mode
        self.output = VisImage(self.img, scale)
        self._default_font_size = max(10.0, (self.output.height * self.output.width) ** 0.5 / 45)

    def get_output(self) -> VisImage:
        """Return the drawing."""
        return self.output

    def draw_instance_predictions(self, predictions: Any) -> VisImage:
        """Draw detections: ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_masks``, ``pred_keypoints``.

        Args:
            predictions: ``Instances`` on the CPU, in px of the image.
        """
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        labels = self._labels(classes, fields.get("scores"))
        colors = self._class_colors(classes)
        if self._instance_mode == ColorMode.IMAGE_BW:
            masks = np.asarray(fields["pred_masks"], bool) if "pred_masks" in fields else None
            self._make_grey(None if masks is None else np.asarray(masks.any(axis=0)))
        return self.overlay_instances(
            boxes=fields.get("pred_boxes"),
            masks=fields.get("pred_masks"),
            labels=labels,
            keypoints=fields.get("pred_keypoints"),
            assigned_colors=colors,
        )

    def draw_sem_seg(self, sem_seg: Any, area_threshold: float | None = None, alpha: float = 0.8) -> VisImage:
        """Draw the classes (H, W) of the pixels, the largest first.

        Args:
            sem_seg: class indices; those without a name in ``stuff_classes`` are not drawn.
            area_threshold: smallest area in px of a class that gets its name.
            alpha: opacity.
        """
        classes = np.asarray(sem_seg)
        names = list(self._meta("stuff_classes", []))
        labels, areas = np.unique(classes, return_counts=True)
        for label in labels[np.argsort(-areas)]:
            if 0 <= label < len(names):
                color = self._known_color("stuff_colors", int(label))
                self.draw_binary_mask(
                    classes == label,
                    color=color,
                    text=names[label],
                    alpha=alpha,
                    area_threshold=area_threshold or 0,
                )
        return self.output

    def draw_panoptic_seg(
        self,
        panoptic_seg: Any,
        segments_info: Sequence[dict[str, Any]] | None,
        area_threshold: float | None = None,
        alpha: float = 0.7,
    ) -> VisImage:
        """Draw the segments of a panoptic map, stuff below things.

        Args:
            panoptic_seg: (H, W) id of the segment of each pixel.
            segments_info: ``id``, ``category_id`` and ``isthing`` of each segment; None: the ids are
                category * ``label_divisor`` of the metadata + number, and below 0 for none.
            area_threshold: smallest area in px of stuff that gets its name.
            alpha: opacity.
        """
        ids = np.asarray(panoptic_seg)
        if segments_info is None:
            divisor = self.metadata.label_divisor
            things = set(self._meta("thing_dataset_id_to_contiguous_id", {}).values())
            segments_info = [
                {"id": int(one), "category_id": int(one) // divisor, "isthing": int(one) // divisor in things}
                for one in np.unique(ids)
                if one >= 0
            ]
        for segment in sorted(segments_info, key=lambda one: bool(one["isthing"])):
            kind = "thing" if segment["isthing"] else "stuff"
            names, category = list(self._meta(f"{kind}_classes", [])), segment["category_id"]
            name = names[category] if category < len(names) else str(category)
            color = None if segment["isthing"] else self._known_color("stuff_colors", category)
            limit = 0 if segment["isthing"] else area_threshold or 0
            mask = ids == segment["id"]
            self.draw_binary_mask(mask, color=color, text=name, alpha=alpha, area_threshold=limit)
        return self.output

    draw_panoptic_seg_predictions = draw_panoptic_seg
    """Older name in detectron2."""

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of a record of ``DatasetCatalog``.

        Args:
            dic: with ``annotations``, and optionally ``sem_seg`` or ``sem_seg_file_name``, or
                ``pan_seg_file_name`` and ``segments_info``.
        """
        annotations = dic.get("annotations") or []
        if annotations:
            masks = [one["segmentation"] for one in annotations] if "segmentation" in annotations[0] else None
            points = None
            if "keypoints" in annotations[0]:
                points = np.array([one["keypoints"] for one in annotations], np.float64).reshape(
                    len(annotations), -1, 3
                )
            classes = [one["category_id"] for one in annotations]
            self.overlay_instances(
                boxes=np.array(
                    [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
                ),
                masks=masks,
                keypoints=points,
                labels=self._labels(classes, None, [one.get("iscrowd", 0) for one in annotations]),
                assigned_colors=self._class_colors(classes),
            )
        sem_seg = dic.get("sem_seg")
        if sem_seg is None and "sem_seg_file_name" in dic:
            sem_seg = np.asarray(Image.open(dic["sem_seg_file_name"]))
        if sem_seg is not None:
            self.draw_sem_seg(sem_seg, area_threshold=0, alpha=0.5)
        if "pan_seg_file_name" in dic:
            with Image.open(dic["pan_seg_file_name"]) as file:
                channels = np.asarray(file.convert("RGB"), np.int64)
            ids = channels @ (1, 256, 256**2)
            self.draw_panoptic_seg(ids, dic["segments_info"], area_threshold=0, alpha=0.5)
        return self.output

    def overlay_instances(
        self,
        *,
        boxes: Any = None,
        labels: Sequence[str] | None = None,
        masks: Any = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Color] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw instances, the largest first.

        Args:
            boxes: ``Boxes``, ``RotatedBoxes``, or (R, 4) XYXY in px.
            labels: the text of each.
            masks: ``BitMasks``, ``PolygonMasks``, (R, H, W), or polygons or RLE of each.
            keypoints: ``Keypoints`` or (R, K, 3).
            assigned_colors: the colour of each; by default random.
            alpha: opacity of the masks.
        """
        rows = _rows(boxes)
        bitmaps = None if masks is None else [self._generic(one) for one in _each(masks)]
        points = (
            None if keypoints is None else np.asarray(getattr(keypoints, "tensor", keypoints), np.float64)
        )
        present = [part for part in (rows, bitmaps, labels, points) if part is not None]
        count = len(present[0]) if present else 0
        if any(len(part) != count for part in present):
            raise ValueError(
                f"the parts have different numbers of instances: {[len(part) for part in present]}"
            )
        colors: Sequence[Color] = assigned_colors or [random_color(rgb=True, maximum=1) for _ in range(count)]
        if bitmaps is not None:
            sizes = [float(one.area()) for one in bitmaps]
        else:
            sizes = [float(np.prod(row[2:4] if len(row) == 5 else row[2:] - row[:2])) for row in rows or []]
        for index in np.argsort(-np.array(sizes or [0.0] * count), kind="stable").tolist():
            text = labels[index] if labels else None
            if bitmaps is not None:
                self.draw_binary_mask(bitmaps[index].mask, color=colors[index], alpha=alpha)
            if rows is not None and len(rows[index]) == 5:
                self.draw_rotated_box_with_label(rows[index], edge_color=colors[index], label=text)
                continue
            if rows is not None:
                self.draw_box(rows[index], edge_color=colors[index])
            corner = (
                rows[index] if rows is not None else bitmaps[index].bbox() if bitmaps is not None else None
            )
            if text and corner is not None:
                self.draw_text(text, (corner[0], corner[1]), color=colors[index], horizontal_alignment="left")
        for one in points if points is not None else ():
            self.draw_and_connect_keypoints(one)
        return self.output

    def draw_and_connect_keypoints(self, keypoints: Any) -> VisImage:
        """Draw the keypoints (K, 3) of an instance, x, y and score, and the lines between them."""
        names = self._meta("keypoint_names", None)
        visible = {}
        for index, (x, y, score) in enumerate(np.asarray(keypoints, np.float64)):
            if score > LEAST_VISIBLE_SCORE:
                self.draw_circle((x, y), color="r")
                visible[names[index] if names else index] = (x, y)
        for first, second, color in self._meta("keypoint_connection_rules", None) or ():
            if first in visible and second in visible:
                (x0, y0), (x1, y1) = visible[first], visible[second]
                self.draw_line([x0, x1], [y0, y1], color=[channel / 255 for channel in color])
        return self.output

    def draw_text(
        self,
        text: str,
        position: Sequence[float],
        *,
        font_size: float | None = None,
        color: Color = "g",
        horizontal_alignment: str = "center",
        rotation: float = 0,
    ) -> VisImage:
        """Draw a text on a dark ground.

        Args:
            text: the text.
            position: x and y in px.
            font_size: in px; by default one that fits the image.
            color: of the text, made brighter.
            horizontal_alignment: part of the text at ``position``: ``"left"``, ``"center"`` or ``"right"``.
            rotation: in degrees, counter-clockwise.
        """
        font = ImageFont.load_default((font_size or self._default_font_size) * self.output.scale)
        left, top, right, bottom = font.getbbox(text)
        margin = 2
        plate = Image.new(
            "RGBA", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), (0, 0, 0, 190)
        )
        bright = tuple(int(255 * (0.5 + channel / 2)) for channel in _rgb(color))
        ImageDraw.Draw(plate).text((margin - left, margin - top), text, font=font, fill=(*bright, 255))
        if rotation:
            plate = plate.rotate(rotation, expand=True)
        shift = {"left": 0.0, "center": plate.width / 2, "right": float(plate.width)}[horizontal_alignment]
        x, y = (round(value * self.output.scale) for value in position)
        layer = Image.new("RGBA", self.output.canvas.size)
        layer.paste(plate, (round(x - shift), y))
        return self._composite(layer)

    def draw_box(
        self,
        box_coord: Sequence[float],
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
    ) -> VisImage:
        """Draw a box (4,) XYXY; ``line_style`` is ``"-"`` or, dashed, ``"--"``."""
        x0, y0, x1, y1 = (float(value) for value in box_coord)
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
        return self._stroke(corners, edge_color, alpha, line_style, self._line_width())

    def draw_rotated_box_with_label(
        self,
        rotated_box: Sequence[float],
        alpha: float = 0.5,
        edge_color: Color = "g",
        line_style: str = "-",
        label: str | None = None,
    ) -> VisImage:
        """Draw a rotated box (5,), centre x and y, width, height and angle, with its upper edge dashed."""
        import torch

        from detexport.layers.rotated_boxes import corners_of_rotated

        corners = corners_of_rotated(torch.as_tensor(np.asarray(rotated_box, np.float64))).tolist()
        for index in range(4):
            style = "--" if index == 0 else line_style
            edge = [corners[index], corners[(index + 1) % 4]]
            self._stroke(edge, edge_color, alpha, style, self._line_width())
        if label is not None:
            self.draw_text(label, corners[0], color=edge_color, rotation=float(rotated_box[4]) % 360)
        return self.output

    def draw_circle(self, circle_coord: Sequence[float], color: Color, radius: float = 3) -> VisImage:
        """Draw a filled circle around x and y; the radius is in px."""
        x, y = (value * self.output.scale for value in circle_coord)
        r = radius * self.output.scale
        layer, draw = self._layer()
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(*_channels(color), 255))
        return self._composite(layer)

    def draw_line(
        self,
        x_data: Sequence[float],
        y_data: Sequence[float],
        color: Color,
        linestyle: str = "-",
        linewidth: float | None = None,
    ) -> VisImage:
        """Draw a line through points, x and y separately."""
        points = list(zip(x_data, y_data, strict=True))
        return self._stroke(points, color, 1.0, linestyle, linewidth or self._line_width())

    def draw_binary_mask(
        self,
        binary_mask: Any,
        color: Color | None = None,
        *,
        edge_color: Color | None = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: float = 10,
    ) -> VisImage:
        """Fill a mask.

        Args:
            binary_mask: (H, W).
            color: of the mask; by default random.
            edge_color: of its outline; by default none.
            text: drawn in the middle of the mask.
            alpha: opacity.
            area_threshold: a smaller mask gets no text, in px.
        """
        mask = np.asarray(binary_mask).astype(bool)
        fill = color if color is not None else random_color(rgb=True, maximum=1)
        opacity = Image.fromarray((mask * round(255 * alpha)).astype(np.uint8))
        layer = Image.new("RGBA", self.output.canvas.size, (*_channels(fill), 255))
        layer.putalpha(opacity.resize(self.output.canvas.size, Image.Resampling.NEAREST))
        self._composite(layer)
        if edge_color is not None:
            for outline in outlines_of(mask):
                self._stroke(
                    [*outline.tolist(), outline[0].tolist()], edge_color, 1.0, "-", self._line_width()
                )
        if text is not None and mask.sum() > area_threshold:
            rows, columns = mask.nonzero()
            self.draw_text(text, (float(np.median(columns)), float(np.median(rows))), color=fill)
        return self.output

    def draw_polygon(
        self, segment: Any, color: Color, edge_color: Color | None = None, alpha: float = 0.5
    ) -> VisImage:
        """Fill a polygon (N, 2); its outline is in ``edge_color``, by default ``color``."""
        corners = [
            tuple(point * self.output.scale) for point in np.asarray(segment, np.float64).reshape(-1, 2)
        ]
        layer, draw = self._layer()
        draw.polygon(
            corners,
            fill=(*_channels(color), round(255 * alpha)),
            outline=(*_channels(edge_color if edge_color is not None else color), 255),
        )
        return self._composite(layer)

    def _stroke(
        self, points: Iterable[Any], color: Color, alpha: float, style: str, width: float
    ) -> VisImage:
        layer, draw = self._layer()
        ink = (*_channels(color), round(255 * alpha))
        scaled = np.array(list(points), np.float64) * self.output.scale
        pixels = max(1, round(width * self.output.scale))
        for start, end in pairwise(scaled):
            dashes = 1 if style == "-" else max(1, int(np.hypot(*(end - start)) / 6))
            for dash in range(0, dashes, 2 if dashes > 1 else 1):
                a, b = (start + (end - start) * fraction / dashes for fraction in (dash, dash + 1))
                draw.line([tuple(a), tuple(b)], fill=ink, width=pixels)
        return self._composite(layer)

    def _layer(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        layer = Image.new("RGBA", self.output.canvas.size)
        return layer, ImageDraw.Draw(layer)

    def _composite(self, layer: Image.Image) -> VisImage:
        self.output.canvas = Image.alpha_composite(self.output.canvas.convert("RGBA"), layer).convert("RGB")
        return self.output

    def _make_grey(self, inside: np.ndarray | None) -> None:
        grey = np.repeat(self.img.astype(np.float32).mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
        if inside is not None:
            grey[inside] = self.img[inside]
        self.output = VisImage(grey, self.output.scale)

    def _line_width(self) -> float:
        return max(self._default_font_size / 8, 1.0)

    def _meta(self, key: str, default: Any) -> Any:
        return default if self.metadata is None else self.metadata.get(key, default)

    def _known_color(self, key: str, index: int) -> Color | None:
        table = self._meta(key, None)
        return None if not table else [channel / 255 for channel in table[index]]

    def _class_colors(self, classes: Sequence[int] | None) -> list[Color] | None:
        colors = self._meta("thing_colors", None)
        if classes is None or not colors or self._instance_mode != ColorMode.SEGMENTATION:
            return None
        return [[channel / 255 for channel in colors[index]] for index in classes]

    def _labels(
        self, classes: Sequence[int] | None, scores: Any, crowds: Sequence[int] | None = None
    ) -> list[str] | None:
        if classes is None:
            return None
        names = self._meta("thing_classes", None)
        labels = [names[index] if names else str(index) for index in classes]
        if scores is not None:
            labels = [f"{name} {float(score):.0%}" for name, score in zip(labels, scores, strict=True)]
        if crowds is not None:
            labels = [f"{name}|crowd" if crowd else name for name, crowd in zip(labels, crowds, strict=True)]
        return labels

    def _generic(self, mask: Any) -> GenericMask:
        if isinstance(mask, GenericMask):
            return mask
        given = mask if isinstance(mask, list | dict) else np.asarray(mask)
        return GenericMask(given, self.output.height, self.output.width)


def _rows(boxes: Any) -> list[np.ndarray] | None:
    """Return boxes as rows of 4 numbers, or 5 if rotated."""
    if boxes is None:
        return None
    plain = boxes.tensor if isinstance(boxes, Boxes | RotatedBoxes) else boxes
    return list(np.asarray(plain, np.float64))


def _each(masks: Any) -> Iterable[Any]:
    if isinstance(masks, PolygonMasks):
        return masks.polygons
    return masks.tensor if isinstance(masks, BitMasks | Keypoints) else masks


def _rgb(color: Color) -> tuple[float, ...]:
    if isinstance(color, str):
        return tuple(channel / 255 for channel in ImageColor.getrgb(LETTERS.get(color, color))[:3])
    return tuple(float(channel) for channel in color[:3])


def _channels(color: Color) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in _rgb(color))
