"""torchvision's SSD and SSDlite.

Shapes: L levels, A default boxes, R detections, K classes without the background.
"""

from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList as TorchvisionImageList

from detexport.contract import DETECTION_OUTPUTS
from detexport.modeling.box_regression import apply_deltas
from detexport.modeling.graph_segment import DETECTIONS, IMAGE_PORT, Kind, Port, Segment, own_methods
from detexport.modeling.torchvision.backbone import block_segments, feature_shapes, level_names
from detexport.modeling.torchvision.detector import TorchvisionDetector, suppress


class TorchvisionSSD(TorchvisionDetector):
    """SSD and SSDlite: the graph resizes every image to a fixed size.

    Args:
        net: torchvision's model.
        **options: see ``TorchvisionDetector``.
    """

    default_boxes: Tensor

    def __init__(self, net: Any, **options: Any) -> None:
        super().__init__(net, outputs=DETECTION_OUTPUTS, **options)
        self.head = net.head
        width, height = net.transform.fixed_size
        self.fixed_height: int = height
        self.fixed_width: int = width
        features = [torch.empty(shape) for shape in feature_shapes(net.backbone, (height, width)).values()]
        image = TorchvisionImageList(torch.empty(1, 3, height, width), [(height, width)])
        self.register_buffer("default_boxes", net.anchor_generator(image, features)[0], persistent=False)
        self.topk_candidates: int = net.topk_candidates
        self.box_weights: List[float] = list(net.box_coder.weights)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the raw detections of each image: see ``TorchvisionDetector.detect``."""
        batch = torch.cat([self.stretch(self.normalize(image)) for image in images])
        outputs: Dict[str, Tensor] = self.head(list(self.backbone(batch).values()))
        results: List[Dict[str, Tensor]] = []
        for index, image in enumerate(images):
            logits, deltas = outputs["cls_logits"][index], outputs["bbox_regression"][index]
            results.append(self.find_detections(logits, deltas, image))
        return results

    def find_detections(self, logits: Tensor, deltas: Tensor, image: Tensor) -> Dict[str, Tensor]:
        """Select an image's detections, in its px, from logits (A, K + 1) and box deltas (A, 4)."""
        fixed = (self.fixed_height, self.fixed_width)
        boxes = apply_deltas(deltas, self.default_boxes, self.box_weights)
        scores, places, classes = self.candidates(logits)
        found = suppress(boxes[places], scores, classes, fixed, self.nms_threshold, self.max_detections)
        x = found["pred_boxes"][:, 0::2] * (image.shape[2] / self.fixed_width)
        y = found["pred_boxes"][:, 1::2] * (image.shape[1] / self.fixed_height)
        found["pred_boxes"] = torch.stack((x, y), dim=2).flatten(1)
        return found

    def stretch(self, image: Tensor) -> Tensor:
        """Resize an image (3, H, W) to (1, 3, fixed_height, fixed_width), bilinear."""
        size = [self.fixed_height, self.fixed_width]
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)

    def candidates(self, logits: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Return scores, default boxes and classes (R,) of the best per class of logits (A, K + 1)."""
        scores = F.softmax(logits, dim=1)[:, 1:]
        # The padding lets topk return k of fewer than k values; its score -1 is below every threshold.
        best, places = F.pad(scores, [0, 0, 0, self.topk_candidates], value=-1.0).topk(
            self.topk_candidates, dim=0
        )
        found = (best.t() > self.score_threshold).nonzero()
        classes, ranks = found[:, 0], found[:, 1]
        return best[ranks, classes], places[ranks, classes], classes

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image and the backbone, the head, and the decoding of its outputs."""
        count = len(feature_shapes(self.backbone, (self.fixed_height, self.fixed_width)))
        # Images have one fixed size: no axis is free.
        batch, levels = Port("batch", ()), tuple(Port(name, ()) for name in level_names(count))
        outputs = (Port("logits", ()), Port("deltas", ()))
        return [
            Segment("preprocess", _Stretch(self), (IMAGE_PORT,), (batch,)),
            *block_segments(self.backbone, batch, levels),
            Segment("ssd_head", _SSDHead(self.head), levels, outputs),
            Segment("detections", _SSDDetections(self), (*outputs, IMAGE_PORT), DETECTIONS, Kind.DETECTIONS),
        ]


class _Stretch(nn.Module):
    """image -> batch of the fixed size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        return [self.model.stretch(self.model.normalize(tensors[0]))]


class _SSDHead(nn.Module):
    """levels -> logits and box deltas of each default box."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        outputs: Dict[str, Tensor] = self.head(tensors)
        return [outputs["cls_logits"], outputs["bbox_regression"]]


class _SSDDetections(nn.Module):
    """logits, box deltas, image -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        found = self.model.find_detections(tensors[0][0], tensors[1][0], tensors[2])
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]
