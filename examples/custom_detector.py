"""Export of a custom detector by each method: tracing, scripting, torch.export and ONNX.

    python examples/custom_detector.py [FOLDER]

A configuration can name such a registered class (``MODEL.META_ARCHITECTURE``, by its name or by a dotted
path), and then the whole pipeline can use it: see docs/custom_models.md.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport import runtime
from detexport.contract import DETECTION_OUTPUTS, Contract, ResizeRule
from detexport.export import Provenance
from detexport.modeling import META_ARCH_REGISTRY
from detexport.modeling.meta_arch import ImageModel
from detexport.structures import Boxes, Instances
from detexport.targets.table import artifacts

STRIDE = 4
THRESHOLD = 0.6


@META_ARCH_REGISTRY.register()
class PeakDetector(ImageModel):
    """Boxes of fixed size around the peaks of score maps, one map per class."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__(
            pixel_mean=(127.5, 127.5, 127.5),
            pixel_std=(127.5, 127.5, 127.5),
            input_format="RGB",
            resize=ResizeRule(0, 0),
            size_divisibility=0,
        )
        self.scores = nn.Conv2d(3, self.num_classes, 9, stride=STRIDE, padding=4)

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return ``Instances`` in the requested output size; not used in graphs."""
        instances = []
        for image, fields in zip(
            images := self.input_images(batched_inputs), self.detect(images), strict=True
        ):
            boxes = Boxes(fields["pred_boxes"])
            instances.append(Instances(tuple(image.shape[-2:]), **{**fields, "pred_boxes": boxes}))
        return self.postprocess(instances, batched_inputs)

    def detect(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detect in tensors only, for graphs: no branch on a size, no tensor converted to a Python number."""
        return [self.detect_one(image) for image in images]

    def detect_one(self, image: Tensor) -> dict[str, Tensor]:
        """Return boxes, scores and classes in a (C, H, W) image, by descending score."""
        scores = self.scores(self.normalize(image)[None])[0].sigmoid()
        is_peak = (scores == F.max_pool2d(scores, 3, 1, 1)) & (scores > 0.6)
        classes, y, x = is_peak.nonzero().unbind(1)
        top_scores, order = scores[classes, y, x].sort(descending=True)
        centres = torch.stack([x, y, x, y], dim=1)[order].float() * 4
        sides = torch.tensor([-12.0, -8.0, 12.0, 8.0], device=image.device)
        return {"pred_boxes": centres + sides, "scores": top_scores, "pred_classes": classes[order]}

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract: inputs and outputs of the graph, for artifacts, schemas and parity reports."""
        return self.contract_of(
            DETECTION_OUTPUTS,
            class_names,
            score_threshold=THRESHOLD,
            nms_threshold=1.0,
            max_detections=-1,
        )


def main(folder: Path) -> None:
    """Export the detector by each method, load each artifact and compare its outputs with the model's."""
    torch.manual_seed(0)
    model = PeakDetector().eval()
    image = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8)
    with torch.no_grad():
        (expected,) = model([{"image": image}])
    for name in ("tracing", "scripting", "torch_export", "onnx"):
        artifacts()[name].maker.build().export(
            model,
            image.numpy(),
            folder / name,
            contract=model.contract(("dark", "light")),
            provenance=Provenance(weights_sha256="not stored", config_sha256="not stored"),
        )
        (actual,) = runtime.load(folder / name)([{"image": image}])
        boxes, reference = (one["instances"].pred_boxes.tensor for one in (actual, expected))
        assert boxes.shape == reference.shape, f"{name}: {len(boxes)} boxes, {len(reference)} of the model"
        print(f"{name}: {len(boxes)} boxes, maximum difference {(boxes - reference).abs().max():.1e} px")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
