"""Data sets in COCO's format: made, read, resized; free of torch."""

from detexport.data.coco import CocoDataset, CocoRecord, decode_image, load_coco, read_image
from detexport.data.resize import resize_image, resized_size

__all__ = [
    "CocoDataset",
    "CocoRecord",
    "decode_image",
    "load_coco",
    "read_image",
    "resize_image",
    "resized_size",
]
