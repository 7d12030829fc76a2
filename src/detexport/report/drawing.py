"""Detections as SVG over an image: sharp at every size, and each image is embedded only once."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from detexport.parity.detections import Detections

# Colours that stay apart for colour-blind people (Okabe and Ito, 2008), each with the colour of text on it.
PALETTE = (
    ("#e69f00", "#000"),
    ("#56b4e9", "#000"),
    ("#00b386", "#000"),
    ("#f0e442", "#000"),
    ("#cc79a7", "#000"),
    ("#d55e00", "#fff"),
    ("#0072b2", "#fff"),
)
LARGEST_PX = 640  # of an embedded picture's longer side; the page stays small with large images
MASK_ALPHA, EDGE_ALPHA = 105, 235


@dataclass(frozen=True)
class Label:
    """A box and its text, in px of the output; the text lies over the box's top edge, inside the image."""

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


@dataclass(frozen=True)
class Overlay:
    """What is drawn over an image.

    Args:
        masks: PNG as a data URI, transparent outside the masks; empty where there are none.
        labels: boxes with class and score, the best score last, so that it lies on top.
    """

    masks: str
    labels: tuple[Label, ...]


def image_uri(image: np.ndarray, channel_order: str) -> str:
    """An image (3, H, W) uint8 as a data URI (JPEG)."""
    pixels = image[::-1] if channel_order == "BGR" else image
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((LARGEST_PX, LARGEST_PX))
    return _data_uri(picture, "JPEG", quality=90, subsampling=0)


def font_size(output_size: tuple[int, int]) -> float:
    """Size of a label's text in px of the output; pictures are shown equally wide, and so are letters."""
    return 0.048 * output_size[1]


def draw(
    detections: Detections, class_names: list[str], output_size: tuple[int, int], *, min_score: float
) -> Overlay:
    """Draw one image's detections.

    Args:
        detections: in px of the output, best score first.
        class_names: the name of each class index.
        output_size: height and width of the output, in px.
        min_score: what lies below is left out; it would hide the rest.
    """
    surest = detections["scores"] >= min_score
    detections = {name: value[surest] for name, value in detections.items()}
    order = range(len(detections["scores"]))[::-1]
    labels = tuple(_label(detections, index, class_names, output_size) for index in order)
    masks = _masks_uri(detections) if "pred_masks" in detections and len(order) else ""
    return Overlay(masks, labels)


def _label(detections: Detections, index: int, class_names: list[str], output_size: tuple[int, int]) -> Label:
    x0, y0, x1, y1 = detections["pred_boxes"][index].tolist()
    pred_class = int(detections["pred_classes"][index])
    name = class_names[pred_class] if pred_class < len(class_names) else f"class {pred_class}"
    text = f"{name} {detections['scores'][index]:.2f}"
    size = font_size(output_size)
    width = 0.58 * size * len(text)
    colour, ink = PALETTE[pred_class % len(PALETTE)]
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
    )


def _masks_uri(detections: Detections) -> str:
    """All masks in one picture of few colours: for each class one for the area and one for the edge."""
    masks, classes = detections["pred_masks"], detections["pred_classes"] % len(PALETTE)
    step = -(-max(masks.shape[1:]) // LARGEST_PX)
    canvas = np.zeros(masks[0, ::step, ::step].shape, np.uint8)
    for mask, pred_class in zip(masks[::-1, ::step, ::step], classes[::-1], strict=True):
        canvas[mask] = 1 + 2 * pred_class
        canvas[mask & ~_eroded(mask)] = 2 + 2 * pred_class
    picture = Image.fromarray(canvas)
    colours = [tuple(bytes.fromhex(colour[1:])) for colour, _ in PALETTE for _ in range(2)]
    picture.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    alphas = bytes([0, *([MASK_ALPHA, EDGE_ALPHA] * len(PALETTE))])
    return _data_uri(picture, "PNG", transparency=alphas, optimize=True)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask whose four neighbours belong to it too."""
    padded = np.pad(mask, 1)
    eroded: np.ndarray = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return eroded


def _data_uri(picture: Image.Image, picture_format: str, **options: object) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, picture_format, **options)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{picture_format.lower()};base64,{encoded}"
