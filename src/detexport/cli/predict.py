"""``detexport predict``: images -> an artifact's detections."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.cli.output import print_json
from detexport.errors import ConfigError
from detexport.formats.image_files import find_images
from detexport.system.files import output_errors
from detexport.system.progress import say
from detexport.workflows.load_detector import load

MOST_PROPOSALS = 10  # of an image, in the table


def predict(
    source: str | Path,
    names: Sequence[str],
    *,
    as_json: bool,
    draw_to: Path | None,
    device: str,
    target: str,
    score_threshold: float,
) -> None:
    """Run an artifact on images; see ``detexport predict --help``.

    Raises:
        ArtifactError: the folder is not an artifact, or was changed.
        DataError: an image does not exist, or cannot be read.
        RuntimeUnavailableError: the runtime or the device is not on this machine.
        OutputError: a drawing cannot be written.
        OutOfMemoryError: an image needs more memory than there is.
    """
    files = find_images(names)
    drawings = _drawing_files(files, draw_to) if draw_to else {}
    detector = load(source, target=target, device=device)
    rows = []
    for file in tqdm(files, desc="predict", unit="image", disable=True if len(files) == 1 else None):
        detections = detector(file, score_threshold=score_threshold)
        row = {"image": str(file), **detections.to_plain()}
        if file in drawings:
            with output_errors(drawings[file]):
                detections.save_drawing(drawings[file], min_score=score_threshold)
        if as_json:
            rows.append(row)
        else:
            print("\n".join(_table(row)), flush=True)
    if as_json:
        document = {
            "artifact": detector.artifact.sha256,
            "score_threshold": score_threshold,
            "images": rows,
        }
        print_json(document)
    if draw_to:
        say(f"{draw_to}: {len(drawings)} images with detections")


def _drawing_files(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return the file of each image's drawing: ``<name>.png`` in a folder.

    Raises:
        ConfigError: two drawings would be the same file, or one would replace an image.
    """
    drawings = {file: folder / f"{file.stem}.png" for file in files}
    taken: dict[Path, Path] = {}
    for file, drawing in drawings.items():
        if drawing in taken or drawing.resolve() == file.resolve():
            raise ConfigError(
                f"the drawing of {file} would replace another file",
                got=f"{drawing}, that of {taken.get(drawing, file)}",
                expected="images of different names, and another folder than theirs",
                remedy="run the command for each of them, with another --draw folder",
            )
        taken[drawing] = file
    return drawings


def _table(row: dict[str, Any]) -> list[str]:
    """Return the lines of text about an image: its size, then a line per detection."""
    lines = [f"{row['image']}  {row['width']} x {row['height']} px  {_counted(row)}"]
    for name, score, box in zip(
        row.get("class_names", ()), row.get("scores", ()), row.get("boxes", ()), strict=True
    ):
        lines.append(f"  {name:20} {score:.3f}  {_corners(box)}")
    proposals = list(zip(row.get("objectness_logits", ()), row.get("proposal_boxes", ()), strict=True))
    lines += [f"  {logit:8.3f}  {_corners(box)}" for logit, box in proposals[:MOST_PROPOSALS]]
    if len(proposals) > MOST_PROPOSALS:
        lines.append(f"  and {len(proposals) - MOST_PROPOSALS} more")
    segments = row.get("panoptic_seg") or row.get("sem_seg", [])
    pixels = row["width"] * row["height"]
    for segment in segments:
        share = _area(segment["mask"]) / pixels
        lines.append(f"  {segment['class_name']:20} {share:6.1%} of the pixels")
    return lines


def _counted(row: dict[str, Any]) -> str:
    counts = {
        "detections": row.get("scores"),
        "proposals": row.get("objectness_logits"),
        "segments": row.get("panoptic_seg"),
        "semantic classes": None if "panoptic_seg" in row else row.get("sem_seg"),
    }
    return ", ".join(f"{len(found)} {name}" for name, found in counts.items() if found is not None)


def _corners(box: list[float]) -> str:
    return " ".join(f"{side:8.1f}" for side in box)


def _area(rle: dict[str, Any]) -> int:
    from pycocotools import mask as coco_mask

    return int(np.asarray(coco_mask.area(rle)))
