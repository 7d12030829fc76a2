"""Draw outputs over an image: as SVG overlays, which are sharp at every size, or as an image file."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from detexport.contract import Contract
from detexport.outputs import Outputs, axis_aligned
from detexport.system.atomic import atomic_file

# Colours that colour-blind people can distinguish (Okabe and Ito, 2008), each with the colour of text on it.
PALETTE = (
    ("#e69f00", "#000"),
    ("#56b4e9", "#000"),
    ("#00b386", "#000"),
    ("#f0e442", "#000"),
    ("#cc79a7", "#000"),
    ("#d55e00", "#fff"),
    ("#0072b2", "#fff"),
)
LARGEST_PX = 640  # longest side of an embedded image, so that the page stays small
MASK_ALPHA, EDGE_ALPHA = 105, 235
LARGEST_FONT_PX = 24.0  # in an image file
MOST_PROPOSALS = 20  # the best are drawn; a thousand boxes would hide the image


@dataclass(frozen=True)
class Label:
    """A box and its text, in px of the output; the text is above the box's top edge, inside the image.

    The text is the class's name and the score. A proposal has none.
    """

    x: float
    y: float
    width: float
    height: float
    text: str
    text_x: float
    text_y: float
    text_width: float
    colour: str
    ink: str
    name: str = ""


@dataclass(frozen=True)
class Point:
    """A keypoint, in px of the output."""

    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class Overlay:
    """The drawing over an image.

    Args:
        regions: masks, segments or semantic classes: PNG as a data URI, transparent outside; empty if there
            are none.
        labels: boxes with class and score, the best score last, so that it is on top.
        points: keypoints.
        legend: name, colour, and colour of text on it, of each semantic class.
    """

    regions: str
    labels: tuple[Label, ...]
    points: tuple[Point, ...] = ()
    legend: tuple[tuple[str, str, str], ...] = ()


def image_uri(image: np.ndarray, channel_order: str) -> str:
    """Return an image (3, H, W) uint8 as a data URI (JPEG)."""
    thumbnail = _pil_image(image, channel_order)
    thumbnail.thumbnail((LARGEST_PX, LARGEST_PX))
    return _data_uri(thumbnail, "JPEG", quality=90, subsampling=0)


def font_size(output_size: tuple[int, int]) -> float:
    """Return the size of a label's text in px of the output: a fixed fraction of its width."""
    return 0.048 * output_size[1]


def draw(outputs: Outputs, contract: Contract, output_size: tuple[int, int], *, min_score: float) -> Overlay:
    """Draw one image's outputs.

    Args:
        outputs: post-processed outputs, best score first. Keypoints that are NaN are not drawn.
        contract: has the class names, and the names of the fields with a row for each detection.
        output_size: height and width of the output, in px.
        min_score: detections with a lower score are not drawn; they would hide the others.
    """
    if "scores" in outputs:
        kept = outputs["scores"] >= min_score
        outputs = outputs | {name: outputs[name][kept] for name in contract.row_names if name in outputs}
    regions = list(_regions(outputs))
    return Overlay(
        _regions_uri(regions) if regions else "",
        (*_proposals(outputs), *_labels(outputs, contract, output_size)),
        tuple(_points(outputs)),
        tuple(_legend(outputs, contract)),
    )


def _colour(index: int) -> tuple[str, str]:
    return PALETTE[index % len(PALETTE)]


def _labels(outputs: Outputs, contract: Contract, output_size: tuple[int, int]) -> Iterator[Label]:
    for index in reversed(range(len(outputs.get("scores", ())))):
        yield _label(outputs, index, contract.class_names, output_size)


def _proposals(outputs: Outputs) -> Iterator[Label]:
    for x0, y0, x1, y1 in outputs.get("proposal_boxes", np.zeros((0, 4)))[:MOST_PROPOSALS][::-1].tolist():
        x, y, width, height = (round(side, 1) for side in (x0, y0, x1 - x0, y1 - y0))
        yield Label(x, y, width, height, "", 0, 0, 0, *_colour(0))


def _points(outputs: Outputs) -> Iterator[Point]:
    if "pred_keypoints" in outputs:
        for keypoints in outputs["pred_keypoints"][::-1].tolist():
            for index, (x, y, _) in enumerate(keypoints):
                if isfinite(x):
                    yield Point(round(x, 1), round(y, 1), _colour(index)[0])


def _legend(outputs: Outputs, contract: Contract) -> Iterator[tuple[str, str, str]]:
    names = contract.stuff_class_names
    for label in _classes_of_pixels(outputs):
        yield (names[label] if label < len(names) else f"class {label}", *_colour(_of_stuff(label)))


def _classes_of_pixels(outputs: Outputs) -> list[int]:
    """Return the stuff classes that are drawn."""
    if "panoptic_seg" in outputs:
        return [one["category_id"] for one in outputs["segments_info"] if not one["isthing"]]
    if "sem_seg" in outputs:
        labels: list[int] = np.unique(outputs["sem_seg"].argmax(0)).tolist()
        return labels
    return []


def _of_stuff(label: int) -> int:
    """Return the colour index of a stuff class: from the palette's end, since things use its start."""
    return -1 - label


def _label(outputs: Outputs, index: int, class_names: tuple[str, ...], output_size: tuple[int, int]) -> Label:
    x0, y0, x1, y1 = axis_aligned(outputs["pred_boxes"])[index].tolist()
    pred_class = int(outputs["pred_classes"][index])
    name = class_names[pred_class] if pred_class < len(class_names) else f"class {pred_class}"
    text = f"{name} {outputs['scores'][index]:.2f}"
    size = font_size(output_size)
    width = 0.58 * size * len(text)
    colour, ink = _colour(pred_class)
    return Label(
        x=round(x0, 1),
        y=round(y0, 1),
        width=round(x1 - x0, 1),
        height=round(y1 - y0, 1),
        text=text,
        text_x=round(max(min(x0, output_size[1] - width), 0), 1),
        text_y=round(max(y0 - 1.3 * size, 0), 1),
        text_width=round(width, 1),
        colour=colour,
        ink=ink,
        name=name,
    )


def name_only(label: Label, output_size: tuple[int, int]) -> Label:
    """Return a label whose text is the class's name, without a score."""
    width = 0.58 * font_size(output_size) * len(label.name)
    text_x = round(max(min(label.x, output_size[1] - width), 0), 1)
    return replace(label, text=label.name, text_x=text_x, text_width=round(width, 1))


def _regions(outputs: Outputs) -> Iterator[tuple[np.ndarray, int]]:
    """Yield masks (H, W) bool with the index of their colour; later ones are drawn on top."""
    if "panoptic_seg" in outputs:
        for segment in outputs["segments_info"]:
            category = segment["category_id"]
            colour = category if segment["isthing"] else _of_stuff(category)
            yield outputs["panoptic_seg"] == segment["id"], colour
    elif "sem_seg" in outputs:
        labels = outputs["sem_seg"].argmax(0)
        for label in np.unique(labels).tolist():
            yield labels == label, _of_stuff(label)
    elif "pred_masks" in outputs:
        yield from zip(outputs["pred_masks"][::-1], outputs["pred_classes"][::-1].tolist(), strict=True)


def _regions_uri(regions: list[tuple[np.ndarray, int]]) -> str:
    """Return all regions as one palette PNG: each colour index has one entry for areas and one for edges."""
    step = -(-max(regions[0][0].shape) // LARGEST_PX)
    canvas = np.zeros(regions[0][0][::step, ::step].shape, np.uint8)
    for whole, index in regions:
        mask, colour = whole[::step, ::step], index % len(PALETTE)
        canvas[mask] = 1 + 2 * colour
        canvas[mask & ~_eroded(mask)] = 2 + 2 * colour
    drawn = Image.fromarray(canvas)
    colours = [tuple(bytes.fromhex(colour[1:])) for colour, _ in PALETTE for _ in range(2)]
    drawn.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    alphas = bytes([0, *([MASK_ALPHA, EDGE_ALPHA] * len(PALETTE))])
    return _data_uri(drawn, "PNG", transparency=alphas, optimize=True)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask whose four neighbours belong to it too."""
    padded = np.pad(mask, 1)
    eroded: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return eroded


def _pil_image(image: np.ndarray, channel_order: str) -> Image.Image:
    pixels = image[::-1] if channel_order == "BGR" else image
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _data_uri(image: Image.Image, image_format: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{image_format.lower()};base64,{encoded}"


def save_drawing(path: Path, image: np.ndarray, channel_order: str, overlay: Overlay) -> None:
    """Write an image file with an overlay, in the image's size.

    Args:
        path: the file; its suffix selects the format.
        image: (3, H, W) uint8.
        channel_order: that of the image, ``"RGB"`` or ``"BGR"``.
        overlay: the result of ``draw`` for the image's size.
    """
    drawn = _pil_image(image, channel_order)
    if overlay.regions:
        encoded = base64.b64decode(overlay.regions.partition(",")[2])
        regions = Image.open(io.BytesIO(encoded)).convert("RGBA")
        regions = regions.resize(drawn.size, Image.Resampling.NEAREST)
        drawn.paste(regions, (0, 0), regions)
    _draw_labels(drawn, overlay)
    with atomic_file(path) as temporary:
        drawn.save(temporary)


def _draw_labels(image: Image.Image, overlay: Overlay) -> None:
    canvas = ImageDraw.Draw(image)
    size = min(font_size((image.height, image.width)), LARGEST_FONT_PX)
    font = ImageFont.load_default(size)
    line = max(1, round(size / 8))
    for label in overlay.labels:
        box = (label.x, label.y, label.x + label.width, label.y + label.height)
        canvas.rectangle(box, outline=label.colour, width=line)
        if label.text:
            corner = (label.text_x, label.text_y)
            canvas.rectangle(canvas.textbbox(corner, label.text, font), fill=label.colour)
            canvas.text(corner, label.text, label.ink, font)
    for point in overlay.points:
        bounds = (point.x - line, point.y - line, point.x + line, point.y + line)
        canvas.ellipse(bounds, fill=point.colour)
    for number, (name, colour, ink) in enumerate(overlay.legend):
        corner = (line, image.height - (len(overlay.legend) - number) * 1.3 * size)
        canvas.rectangle(canvas.textbbox(corner, name, font), fill=colour)
        canvas.text(corner, name, ink, font)
