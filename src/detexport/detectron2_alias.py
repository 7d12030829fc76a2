"""Names of detectron2 that are not here, with the reason."""

ROOT = "detectron2"

REFUSED: dict[str, str] = {}
