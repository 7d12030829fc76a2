"""The C++ programs, as `make cpp-test` builds them, and what they print as arrays."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detexport.artifact import Artifact, Format
from detexport.contract import Contract
from detexport.data.coco import read_image
from detexport.data.resize import resize_image, resized_size
from detexport.outputs import Outputs
from detexport.processing.postprocess import postprocess
from detexport.runtime.session import Session

BUILD = Path(__file__).parents[2] / "build" / "cpp"
PROGRAMS = {
    Format.TORCHSCRIPT: "torchscript",
    Format.ONNX: "onnx_runtime",
    Format.AOT_INDUCTOR: "aot_inductor",
    Format.OPENVINO: "openvino",
}
ARRAYS = {
    "pred_boxes": ("boxes", np.float32, (4,)),
    "scores": ("scores", np.float32, ()),
    "pred_classes": ("classes", np.int64, ()),
    "proposal_boxes": ("proposal_boxes", np.float32, (4,)),
    "objectness_logits": ("objectness_logits", np.float32, ()),
}


def built(program: str) -> Path:
    """The path of a program; a test of one that was left out is skipped, and says why it was."""
    path = BUILD / program
    if not path.is_file():
        note = path.with_suffix(".left_out")
        pytest.skip(note.read_text().strip() if note.is_file() else "not built; `make cpp-test` builds it")
    return path


def run(program: str, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [built(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def detect(program: str, folder: Path, image: Path, *options: Any) -> dict[str, Any]:
    """What a program prints of an image."""
    done = run(program, folder, image, *options)
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def graph_input(image: Path, artifact: Artifact) -> np.ndarray:
    """The image that Python gives to the graph."""
    contract = artifact.contract
    pixels = read_image(image, contract.channel_order)
    return resize_image(pixels, resized_size(*pixels.shape[1:], contract.resize))


def expected(session: Session, image: Path) -> Outputs:
    """What the Python runtime finds in an image, in its own frame."""
    given = graph_input(image, session.artifact)
    size = read_image(image).shape[1:]
    return postprocess(session(given), given.shape[1:], size, session.artifact.contract)


def to_outputs(printed: dict[str, Any], size: tuple[int, int], contract: Contract) -> Outputs:
    """A program's JSON as arrays, but for ``sem_seg``, of whose logits it tells the highest alone."""
    outputs: Outputs = {
        name: np.array(printed[column], dtype).reshape(-1, *shape)
        for name, (column, dtype, shape) in ARRAYS.items()
        if column in printed
    }
    if "masks" in printed:
        masks = [decode(rle, size) for rle in printed["masks"]]
        outputs["pred_masks"] = np.array(masks, bool).reshape(-1, *size)
    if "keypoints" in printed:
        shape = next(spec.shape for spec in contract.outputs if spec.name == "pred_keypoints")
        outputs["pred_keypoints"] = np.array(printed["keypoints"], np.float32).reshape(-1, *shape[1:])
    if "panoptic_seg" in printed:
        outputs["panoptic_seg"] = np.zeros(size, np.int32)
        outputs["segments_info"] = []
        for segment in printed["panoptic_seg"]:
            mask = decode(segment["mask"], size)
            outputs["panoptic_seg"][mask] = segment["id"]
            outputs["segments_info"].append(_segment(segment, printed["scores"], int(mask.sum())))
    return outputs


def to_labels(printed: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel (H, W), -1 where a program tells none."""
    labels = np.full(size, -1)
    for entry in printed["sem_seg"]:
        labels[decode(entry["mask"], size)] = entry["class"]
    return labels


def decode(rle: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    assert tuple(rle["size"]) == size
    mask: np.ndarray = coco_mask.decode(rle).astype(bool)
    return mask


def _segment(segment: dict[str, Any], scores: list[float], area: int) -> dict[str, Any]:
    info = {"id": segment["id"], "isthing": segment["isthing"], "category_id": segment["class"]}
    if segment["isthing"]:
        return {**info, "score": scores[segment["instance"]], "instance_id": segment["instance"]}
    return {**info, "area": area}
