"""Data sets in COCO's format: made, read, resized."""
