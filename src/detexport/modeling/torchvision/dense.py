"""torchvision's RetinaNet and FCOS.

Shapes: N images, L levels, A anchors per cell, R detections, K classes without the background.
"""

from collections.abc import Sequence
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from detexport.contract import DETECTION_OUTPUTS
from detexport.errors import ConfigError
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.box_regression import apply_deltas
from detexport.modeling.graph_segment import (
    BATCH,
    DETECTIONS,
    IMAGE_PORT,
    Kind,
    Segment,
    dense_maps,
    maps,
    own_methods,
    size_of,
)
from detexport.modeling.meta_arch.image_model import preprocess_segment
from detexport.modeling.meta_arch.retinanet import top_candidates
from detexport.modeling.torchvision.anchors import anchor_grids
from detexport.modeling.torchvision.backbone import level_names, pyramid_segments
from detexport.modeling.torchvision.detector import TorchvisionDetector, num_labels, suppress
from detexport.structures.image_list import pad_images

KNOWN_HEADS = (
    RetinaNetClassificationHead.forward,
    RetinaNetRegressionHead.forward,
    FCOSClassificationHead.forward,
    FCOSRegressionHead.forward,
)
"""The ``forward`` methods that ``TorchvisionDense.predict`` reproduces."""


class TorchvisionDense(TorchvisionDetector):
    """RetinaNet and FCOS.

    Args:
        net: torchvision's model.
        **options: see ``TorchvisionDetector``.
    """

    cells: Tensor

    def __init__(self, net: Any, **options: Any) -> None:
        super().__init__(net, outputs=DETECTION_OUTPUTS, **options)
        self.head = require_known_head(net.head)
        self.register_buffer("cells", torch.stack(net.anchor_generator.cell_anchors), persistent=False)
        self.topk_candidates: int = net.topk_candidates
        self.has_centerness = isinstance(net, detection.FCOS)
        self.num_labels: int = num_labels(net)
        # FCOS has none, but TorchScript needs a list of floats.
        weights = (1.0, 1.0, 1.0, 1.0) if self.has_centerness else net.box_coder.weights
        self.box_weights: List[float] = list(weights)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the raw detections of each image: see ``TorchvisionDetector.detect``."""
        batch, sizes = pad_images([self.normalize(image) for image in images], self.size_divisibility)
        levels = list(self.backbone(batch).values())
        anchors = anchor_grids(batch, levels, self.cells)
        outputs: List[Dict[str, Tensor]] = [self.outputs_of(self.predict(level)) for level in levels]
        return self.find_detections(anchors, outputs, sizes)

    def find_detections(
        self,
        anchors: List[Tensor],
        outputs: List[Dict[str, Tensor]],
        image_sizes: List[Tuple[int, int]],
    ) -> List[Dict[str, Tensor]]:
        """Select detections: decode the best anchors and classes of each level, then run NMS per class.

        Args:
            anchors: (HWA, 4) per level, XYXY in px.
            outputs: outputs of the head per level: see ``outputs_of``.
            image_sizes: height and width of each image in px.
        """
        results: List[Dict[str, Tensor]] = []
        for index, size in enumerate(image_sizes):
            level_boxes: List[Tensor] = []
            level_scores: List[Tensor] = []
            level_classes: List[Tensor] = []
            for level, output in enumerate(outputs):
                scores, places, classes = top_candidates(
                    self.scores_of(output, index), self.score_threshold, self.topk_candidates
                )
                deltas = output["bbox_regression"][index][places]
                level_boxes.append(self.decode(deltas, anchors[level][places]))
                level_scores.append(scores)
                level_classes.append(classes)
            results.append(
                suppress(
                    torch.cat(level_boxes),
                    torch.cat(level_scores),
                    torch.cat(level_classes),
                    size,
                    self.nms_threshold,
                    self.max_detections,
                )
            )
        return results

    def predict(self, level: Tensor) -> Dict[str, Tensor]:
        """Return the head's maps (N, A * ..., H, W) for one level (N, C, H, W), by torchvision's names.

        torchvision's ``forward`` ends in a reshape that copies depending on the size of the level;
        ``torch.export`` would add a guard on the size.
        """
        logits = self.head.classification_head.cls_logits(self.head.classification_head.conv(level))
        features = self.head.regression_head.conv(level)
        deltas = self.head.regression_head.bbox_reg(features)
        maps = {"cls_logits": logits}
        if hasattr(self.head.regression_head, "bbox_ctrness"):
            deltas = F.relu(deltas)  # FCOS predicts distances
            # Twice: with one channel, torch.export would guard on a level of one cell.
            weight = self.head.regression_head.bbox_ctrness.weight
            bias = self.head.regression_head.bbox_ctrness.bias
            if bias is not None:
                bias = torch.cat([bias, bias])
            twice = F.conv2d(features, torch.cat([weight, weight]), bias, padding=1)
            maps["bbox_ctrness"] = twice[:, : weight.shape[0]]
        maps["bbox_regression"] = deltas
        return maps

    def outputs_of(self, maps: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Reshape the maps of ``predict`` for one level to (N, HWA, ...) each."""
        output = {
            "cls_logits": by_anchor(maps["cls_logits"], self.num_labels),
            "bbox_regression": by_anchor(maps["bbox_regression"], 4),
        }
        if self.has_centerness:
            output["bbox_ctrness"] = by_anchor(maps["bbox_ctrness"], 1)
        return output

    def scores_of(self, output: Dict[str, Tensor], image: int) -> Tensor:
        """Return the scores (HWA, K) of one level of one image."""
        scores = output["cls_logits"][image][:, self.first_label :].sigmoid()
        if self.has_centerness:
            scores = torch.sqrt(scores * output["bbox_ctrness"][image].sigmoid())
        return scores

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Decode the head's box outputs (R, 4) for anchors (R, 4) to boxes (R, 4), XYXY in px."""
        if self.has_centerness:
            # Distances from a point to the four sides, over the side of its anchor (Tian et al. 2019).
            center = 0.5 * (anchors[:, :2] + anchors[:, 2:])
            side = anchors[:, 2:] - anchors[:, :2]
            return torch.cat([center - deltas[:, :2] * side, center + deltas[:, 2:] * side], dim=1)
        return apply_deltas(deltas, anchors, self.box_weights)

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image and the backbone, the head, and the decoding of its outputs."""
        names = level_names(len(self.cells))
        maps_of = {"cls_logits": "logits", "bbox_regression": "deltas"}
        if self.has_centerness:
            maps_of["bbox_ctrness"] = "centerness"
        outputs = dense_maps(names, list(maps_of.values()))
        head, decoding = _TorchvisionHead(self, list(maps_of)), _TorchvisionDetections(self, list(maps_of))
        return [
            preprocess_segment(self),
            *pyramid_segments(self.backbone, maps(*names)),
            Segment("fcos_head" if self.has_centerness else "retinanet_head", head, maps(*names), outputs),
            Segment("detections", decoding, (*outputs, *BATCH, IMAGE_PORT), DETECTIONS, Kind.DETECTIONS),
        ]


class _TorchvisionHead(nn.Module):
    """L levels -> L maps of each of the head's outputs."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = own_methods(model, "head")
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = [self.model.predict(level) for level in tensors]
        found: List[Tensor] = []
        for name in self.names:
            found += [maps[name] for maps in levels]
        return found


class _TorchvisionDetections(nn.Module):
    """L maps of each of the head's outputs, batch, image -> boxes, scores, classes."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = own_methods(model)
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        levels = (len(tensors) - 2) // len(self.names)
        outputs: List[Dict[str, Tensor]] = []
        for level in range(levels):
            maps: Dict[str, Tensor] = {}
            for index, name in enumerate(self.names):
                maps[name] = tensors[index * levels + level]
            outputs.append(self.model.outputs_of(maps))
        anchors = anchor_grids(tensors[-2], tensors[:levels], self.model.cells)
        found = self.model.find_detections(anchors, outputs, [size_of(tensors[-1])])[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]


def require_known_head(head: Any) -> Any:
    """Check that a head of RetinaNet or FCOS has torchvision's ``forward``, which ``predict`` reproduces.

    Raises:
        ConfigError: the classification or regression head overrides ``forward``.
    """
    for module in (head.classification_head, head.regression_head):
        if type(module).forward not in KNOWN_HEADS:
            raise ConfigError(
                "a head with its own forward cannot be exported",
                got=type(module).__qualname__,
                expected=", ".join(known.__qualname__ for known in KNOWN_HEADS),
                remedy="change the head's layers, not its forward",
            )
    return head
