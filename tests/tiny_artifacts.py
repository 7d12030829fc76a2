"""Tiny real artifacts, one a method, that compute the same: for the tests of runtimes and all after them."""

from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Artifact, Format
from detexport.contract import (
    DETECTION_OUTPUTS,
    IMAGE,
    Contract,
    PanopticRule,
    ResizeRule,
    TensorSpec,
    keypoint_output,
    mask_output,
)
from detexport.data.image_samples import ImageSamples
from detexport.system.digests import sha256_file

SCORE_THRESHOLD = 0.25
GRID = 28
# One candidate a class: its box as fractions of the image; its score is the mean of one channel.
FRACTIONS = np.array([[0.1, 0.2, 0.6, 0.7], [0.3, 0.05, 0.9, 0.5], [0.55, 0.5, 1.1, 1.2]], np.float32)
_CELLS = (np.arange(GRID, dtype=np.float32) - 13.5) / 14
MASKS = np.stack(
    [1 - np.hypot(_CELLS[:, None] * y, _CELLS * x) / 1.2 for y, x in [(1, 1), (0.5, 1), (1, 0.3)]]
).astype(np.float32)
# Two keypoints a class, as fractions of the image, with a score.
KEYPOINTS = np.array(
    [[[x, y, 0.5], [x, y + 0.1, 2.0]] for x, y in [(0.2, 0.3), (0.5, 0.2), (0.7, 0.6)]], np.float32
)
SEM_SEG = TensorSpec("sem_seg", "float32", (3, "H", "W"), "the channels, in [0, 1]")
PROPOSALS = (
    TensorSpec("proposal_boxes", "float32", ("R", 4), "as pred_boxes"),
    TensorSpec("objectness_logits", "float32", ("R",), "as scores"),
)
STUFF = {"stuff_class_names": ("things", "green", "blue")}
# What the contract of each kind of model says otherwise than `tiny_contract`; their graphs give all of it.
KINDS: dict[str, dict[str, Any]] = {
    "instances": {},
    "keypoints": {"outputs": (*DETECTION_OUTPUTS, keypoint_output(2)), "keypoint_names": ("head", "foot")},
    "semantic": {"outputs": (SEM_SEG,), "class_names": (), **STUFF},
    "panoptic": {
        "outputs": (*DETECTION_OUTPUTS, mask_output(28), SEM_SEG),
        "panoptic": PanopticRule(overlap_threshold=0.5, stuff_area_limit=20, instances_score_threshold=0.4),
        **STUFF,
    },
    "proposals": {"outputs": PROPOSALS, "class_names": ()},
}


def tiny_contract(**changes: Any) -> Contract:
    fields: dict[str, Any] = {
        "inputs": (IMAGE,),
        "outputs": (*DETECTION_OUTPUTS, mask_output(GRID)),
        "channel_order": "RGB",
        "resize": ResizeRule(min_size=40, max_size=64),
        "pixel_mean": (0.0, 0.0, 0.0),
        "pixel_std": (1.0, 1.0, 1.0),
        "size_divisibility": 0,
        "class_names": ("circle", "square", "star"),
        "score_threshold": SCORE_THRESHOLD,
        "nms_threshold": 0.5,
        "max_detections": 10,
    }
    return Contract(**{**fields, **changes})


def write_tiny_onnx(folder: Path, kind: str = "instances", **changes: Any) -> Artifact:
    """An ONNX artifact: three candidates, those kept whose channel is bright enough, highest score first.

    Of the other ``KINDS`` the graph gives keypoints of the same candidates, the channels as logits of pixels,
    or the candidates as proposals.
    """
    from onnx import TensorProto, checker, helper, numpy_helper, save

    tensors = {
        "fractions": FRACTIONS,
        "masks": MASKS,
        "keypoints": KEYPOINTS,
        "one": np.ones(1, np.float32),
        "sides_of_a_point": np.array([0, 1, 4]),
        "threshold": np.float32(SCORE_THRESHOLD),
        "white": np.float32(255),
        "axes": np.array([1, 2]),
        "size": np.array([2, 1, 2, 1]),
        "first": np.array([0]),
        "candidates": np.array([3]),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Div", ["pixels", "white"], ["values"]),
        node("ReduceMean", ["values", "axes"], ["means"], keepdims=0),
        node("Greater", ["means", "threshold"], ["kept"]),
        node("Cast", ["kept"], ["ones"], to=TensorProto.INT64),
        node("ReduceSum", ["ones", "first"], ["count"], keepdims=1),
        # Not the first ``count`` of them: OpenVINO cannot take the first 0.
        node("TopK", ["means", "candidates"], ["all_scores", "order"]),
        node("Slice", ["all_scores", "first", "count"], ["scores"]),
        node("Slice", ["order", "first", "count"], ["pred_classes"]),
        node("Shape", ["image"], ["shape"]),
        node("Gather", ["shape", "size"], ["sides"]),
        node("Cast", ["sides"], ["scale"], to=TensorProto.FLOAT),
        node("Mul", ["fractions", "scale"], ["boxes"]),
        node("Gather", ["boxes", "pred_classes"], ["pred_boxes"]),
        node("Gather", ["masks", "pred_classes"], ["pred_masks"]),
        node("Concat", ["scale", "one"], ["sides_and_one"], axis=0),
        node("Gather", ["sides_and_one", "sides_of_a_point"], ["scale_of_points"]),
        node("Mul", ["keypoints", "scale_of_points"], ["points"]),
        node("Gather", ["points", "pred_classes"], ["pred_keypoints"]),
        node("Identity", ["values"], ["sem_seg"]),
        node("Identity", ["pred_boxes"], ["proposal_boxes"]),
        node("Identity", ["scores"], ["objectness_logits"]),
    ]
    contract = tiny_contract(**KINDS[kind])
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    edges = [
        [helper.make_tensor_value_info(spec.name, types[spec.dtype], spec.shape) for spec in specs]
        for specs in (contract.inputs, contract.outputs)
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "tiny", *edges, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / "model.onnx")
    fields = {"batch": "1", "contract": contract, **changes}
    return _write_manifest(folder, Format.ONNX, "onnx", "model.onnx", **fields)


def write_tiny_layers(folder: Path) -> Artifact:
    """An ONNX artifact of three convolutions, the last of which predicts ``sem_seg``."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    random = np.random.default_rng(0)
    node = helper.make_node
    tensors = {
        "white": np.float32(255),
        "first": np.array([0]),
        **{
            f"weight{index}": random.normal(0, 0.2, shape).astype(np.float32)
            for index, shape in enumerate([(8, 3, 3, 3), (8, 8, 3, 3), (3, 8, 3, 3)])
        },
    }
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("Div", ["pixels", "white"], ["values"]),
        node("Unsqueeze", ["values", "first"], ["x0"]),
        node("Conv", ["x0", "weight0"], ["y0"], name="conv0", pads=[1] * 4),
        node("Relu", ["y0"], ["x1"]),
        node("Conv", ["x1", "weight1"], ["y1"], name="conv1", pads=[1] * 4),
        node("Relu", ["y1"], ["x2"]),
        node("Conv", ["x2", "weight2"], ["y2"], name="predictor", pads=[1] * 4),
        node("Squeeze", ["y2", "first"], ["sem_seg"]),
    ]
    contract = tiny_contract(**KINDS["semantic"])
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [3, "H", "W"])
    output = helper.make_tensor_value_info("sem_seg", TensorProto.FLOAT, [3, "H", "W"])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "layers", [image], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model, full_check=True)
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / "model.onnx")
    return _write_manifest(folder, Format.ONNX, "onnx", "model.onnx", contract=contract)


def no_samples() -> ImageSamples:
    """Of a data set without a training split."""
    return ImageSamples([], "RGB", ResizeRule(0, 0))


def write_tiny_torchscript(folder: Path, *, method: str = "scripting", **changes: Any) -> Artifact:
    """The same graph as TorchScript: traced (one image a call) or scripted (a list of images)."""
    import torch

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("fractions", torch.from_numpy(FRACTIONS))
            self.register_buffer("masks", torch.from_numpy(MASKS))

        def forward(
            self, image: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            means = (image.float() / 255.0).mean(dim=[1, 2])
            scores, order = means.sort(descending=True)
            kept = scores > 0.25
            scores, classes = scores[kept], order[kept]
            ones = torch.ones_like(image[0])
            height, width = ones[:, 0].sum().float(), ones[0].sum().float()
            boxes = self.fractions * torch.stack([width, height, width, height])
            return boxes[classes], scores, classes, self.masks[classes]

    class Many(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.jit.script(One())

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            found: list[dict[str, torch.Tensor]] = []
            for image in images:
                boxes, scores, classes, masks = self.one(image)
                found.append(
                    {"scores": scores, "pred_boxes": boxes, "pred_classes": classes, "pred_masks": masks}
                )
            return found

    folder.mkdir(parents=True, exist_ok=True)
    sample = torch.full((3, 30, 50), 200, dtype=torch.uint8)
    module = torch.jit.script(Many()) if method == "scripting" else torch.jit.trace(One(), sample)
    module.save(folder / "model.ts")
    batch = "any" if method == "scripting" else "1"
    return _write_manifest(folder, Format.TORCHSCRIPT, method, "model.ts", batch=batch, **changes)


def _write_manifest(
    folder: Path, artifact_format: Format, method: str, main_file: str, **changes: Any
) -> Artifact:
    fields: dict[str, Any] = {
        "format": artifact_format,
        "method": method,
        "options": {},
        "main_file": main_file,
        "files": {main_file: sha256_file(folder / main_file)},
        "contract": tiny_contract(),
        "batch": "1",
        "graph_end": "raw",
        "weights_sha256": "a" * 64,
        "config_sha256": "b" * 64,
        "versions": {"numpy": np.__version__},
    }
    artifact = Artifact(**{**fields, **changes})
    artifact.save(folder)
    return artifact


def tiny_image(
    height: int = 30, width: int = 50, brightness: tuple[int, int, int] = (200, 90, 140)
) -> np.ndarray:
    """An image (3, height, width) uint8 whose channels' means decide what the tiny artifacts detect."""
    noise = np.random.default_rng(0).integers(-20, 20, (3, height, width))
    return (np.array(brightness)[:, None, None] + noise).clip(0, 255).astype(np.uint8)
