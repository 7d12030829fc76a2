"""``detexport predict``: images -> what an artifact finds in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detexport.cli.output import print_json
from detexport.cli.progress import say
from detexport.errors import ConfigError
from detexport.formats.image_files import find_images
from detexport.system.files import writing
from detexport.workflows.load_detector import load

MOST_PROPOSALS = 10  # in the table, of an image; a thousand say nothing


def predict(
    artifact_dir: Path,
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
        OutputError: a picture cannot be written.
        OutOfMemoryError: the memory does not suffice for an image.
    """
    files = find_images(names)
    pictures = _picture_files(files, draw_to) if draw_to else {}
    detector = load(artifact_dir, target=target, device=device)
    rows = []
    for file in tqdm(files, desc="predict", unit="image", disable=True if len(files) == 1 else None):
        detections = detector(file, score_threshold=score_threshold)
        row = {"image": str(file), **detections.to_plain()}
        if file in pictures:
            with writing(pictures[file]):
                detections.save_picture(pictures[file], min_score=score_threshold)
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
        say(f"{draw_to}: {len(pictures)} pictures")


def _picture_files(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where each image's picture goes: ``<name>.png``.

    Raises:
        ConfigError: two of them would be the same file.
    """
    pictures = {file: folder / f"{file.stem}.png" for file in files}
    taken: dict[Path, Path] = {}
    for file, picture in pictures.items():
        if picture in taken or picture.resolve() == file.resolve():
            raise ConfigError(
                f"the picture of {file} would take the place of another file",
                got=f"{picture}, that of {taken.get(picture, file)}",
                expected="images of different names, and another folder than theirs",
                remedy="draw them one after another, into folders of their own",
            )
        taken[picture] = file
    return pictures


def _table(row: dict[str, Any]) -> list[str]:
    """What was found in an image, a line each."""
    lines = [f"{row['image']}  {row['width']} x {row['height']} px  {_counted(row)}"]
    for name, score, box in zip(
        row.get("class_names", ()), row.get("scores", ()), row.get("boxes", ()), strict=True
    ):
        lines.append(f"  {name:20} {score:.3f}  {_corners(box)}")
    proposals = list(zip(row.get("objectness_logits", ()), row.get("proposal_boxes", ()), strict=True))
    lines += [f"  {logit:8.3f}  {_corners(box)}" for logit, box in proposals[:MOST_PROPOSALS]]
    if len(proposals) > MOST_PROPOSALS:
        lines.append(f"  and {len(proposals) - MOST_PROPOSALS} more")
    parts = row.get("panoptic_seg") or row.get("sem_seg", [])
    pixels = row["width"] * row["height"]
    for part in parts:
        lines.append(f"  {part['class_name']:20} {_area(part['mask']) / pixels:6.1%} of the pixels")
    return lines


def _counted(row: dict[str, Any]) -> str:
    counts = {
        "detections": row.get("scores"),
        "proposals": row.get("objectness_logits"),
        "segments": row.get("panoptic_seg"),
        "classes of pixels": None if "panoptic_seg" in row else row.get("sem_seg"),
    }
    return ", ".join(f"{len(found)} {name}" for name, found in counts.items() if found is not None)


def _corners(box: list[float]) -> str:
    return " ".join(f"{side:8.1f}" for side in box)


def _area(rle: dict[str, Any]) -> int:
    from pycocotools import mask as coco_mask

    return int(np.asarray(coco_mask.area(rle)))
