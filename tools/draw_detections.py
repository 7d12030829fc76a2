"""Draw what a model and its ONNX artifact detect in one image, side by side: the README's picture.

    python tools/draw_detections.py docs/detections.png

The model is the trained Mask R-CNN of ``checkpoints/``; the image is one of the synthetic validation split.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from typer import Argument, run

import detexport
from detexport.contract import Contract
from detexport.data import load_coco, read_image, resize_image
from detexport.system.atomic import atomic_file
from detexport.workflows.given_model import given_model
from synthetic_shapes import synthetic_shapes

ROOT = Path(__file__).parents[1]
MODEL = (ROOT / "conf/detectron2/mask_rcnn.yaml", ROOT / "checkpoints/mask_rcnn.safetensors")
IMAGE_ID = 16
"""Several classes and textures, with shapes that overlap."""
MIN_SCORE = 0.5
SCALE = 2
"""Px of the picture for one px of the image: text stays legible."""
CAPTION_PX, GAP_PX, COLOURS = 28, 8, 96


def main(picture: Annotated[Path, Argument(help="PNG to write")]) -> None:
    """Export the model, run both sides, draw."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        synthetic_shapes(train_images=0, val_images=IMAGE_ID).write(work / "data")
        dataset = load_coco(work / "data", "val")
        record = next(one for one in dataset.images if one.image_id == IMAGE_ID)
        artifact = detexport.export(*MODEL, output=work / "onnx", class_names=dataset.class_names)
        image = read_image(record.file_name, artifact.contract.channel_order)
        model = given_model(*MODEL).net
        sides = {"PyTorch": model, "ONNX Runtime": detexport.load(work / "onnx")}
        panels = [
            _panel(name, image, detect, artifact.contract, work / f"{name}.png")
            for name, detect in sides.items()
        ]
    width = sum(panel.width for panel in panels) + GAP_PX
    joined = Image.new("RGB", (width, panels[0].height), "white")
    for index, panel in enumerate(panels):
        joined.paste(panel, (index * (panel.width + GAP_PX), 0))
    with atomic_file(picture) as file:
        joined.quantize(COLOURS).save(file, "PNG", optimize=True)


def _panel(name: str, image: np.ndarray, detect: Any, contract: Contract, file: Path) -> Image.Image:
    """Return the image with what one side detects in it, under the side's name."""
    size = (SCALE * image.shape[1], SCALE * image.shape[2])
    with torch.inference_mode():
        (result,) = detect([{"image": torch.from_numpy(image), "height": size[0], "width": size[1]}])
    outputs = {
        field: getattr(value, "tensor", value).numpy()
        for field, value in result["instances"].get_fields().items()
    }
    detections = detexport.Detections(resize_image(image, size), outputs, contract)
    detections.save_drawing(file, min_score=MIN_SCORE)
    panel = Image.new("RGB", (size[1], size[0] + CAPTION_PX), "white")
    ImageDraw.Draw(panel).text((2, 2), name, "black", ImageFont.load_default(20))
    panel.paste(Image.open(file), (0, CAPTION_PX))
    return panel


if __name__ == "__main__":
    run(main)
