"""The segments' modules: each takes a list of tensors and gives one, in every kind of graph.

They call the methods that the model's own ``detect`` calls, on the model's own layers. Shapes: one image, L
levels, R rows (proposals or detections), K classes.
"""

import copy
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detexport.export.graph_end import place_outputs
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.meta_arch.semantic_seg import crop_to_image
from detexport.modeling.roi_heads.keypoint_head import heatmaps_to_keypoints
from detexport.structures.boxes import clip_boxes
from detexport.structures.image_list import pad_images


@torch.jit.unused
def _no_forward(self: Any, *_: Any) -> Any:
    raise NotImplementedError(f"{type(self).__name__} is here for its methods alone")


def own_methods(module: nn.Module, *kept: str) -> Any:
    """A module with its numbers and methods, of its children only those that are kept.

    A segment that only decodes would otherwise carry the weights of all layers into its file.
    """
    copied = copy.copy(module)
    kind = type(module)
    copied.__class__ = type(kind.__name__, (kind,), {"forward": _no_forward, "__module__": kind.__module__})
    copied.__dict__["_modules"] = {name: getattr(module, name) for name in kept}
    return copied


def size_of(image: Tensor) -> Tuple[int, int]:
    """Height and width in px of (3, H, W)."""
    return image.shape[1], image.shape[2]


class Preprocess(nn.Module):
    """image -> the padded batch of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        batch, _ = pad_images([self.model.normalize(tensors[0])], self.model.size_divisibility)
        return [batch]


class Layers(nn.Module):
    """x -> layers(x)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.layers(tensors[0])]


class NamedMaps(nn.Module):
    """x -> those of ``network(x)`` that have these names."""

    def __init__(self, network: Any, names: List[str]) -> None:
        super().__init__()
        self.network = network
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        found = self.network(tensors[0])
        return [found[name] for name in self.names]


class PyramidLevel(nn.Module):
    """a stage and the level above, if there is one -> the fused map and the level."""

    def __init__(self, fpn: Any, level: int) -> None:
        super().__init__()
        self.lateral = getattr(fpn, f"fpn_lateral{level}")
        self.output = getattr(fpn, f"fpn_output{level}")
        self.fpn = own_methods(fpn)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        above: Optional[Tensor] = None
        if len(tensors) > 1:
            above = tensors[1]
        fused = self.fpn._fuse(self.lateral(tensors[0]), above)
        return [fused, self.output(fused)]


class DenseHead(nn.Module):
    """L levels -> L maps of logits, L maps of deltas."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        logits, deltas = self.head(tensors)
        return logits + deltas


class Proposals(nn.Module):
    """L maps of logits, L of deltas, image -> boxes and their logits."""

    def __init__(self, rpn: Any) -> None:
        super().__init__()
        self.rpn = own_methods(rpn)
        self.anchors: Any = rpn.anchor_generator

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        levels = len(tensors) // 2
        maps, image = tensors[:levels], tensors[-1]
        logits = [by_anchor(one, 1).flatten(1) for one in maps]
        deltas = [by_anchor(one, 4) for one in tensors[levels : 2 * levels]]
        boxes, scores = self.rpn.find_proposals(self.anchors(maps), logits, deltas, [size_of(image)])[0]
        return [boxes, scores]


class DenseDetections(nn.Module):
    """L maps of logits, L of deltas -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)
        self.anchors: Any = model.anchor_generator

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        levels = len(tensors) // 2
        logits = [by_anchor(one, self.model.num_classes) for one in tensors[:levels]]
        deltas = [by_anchor(one, 4) for one in tensors[levels:]]
        found = self.model.find_detections(self.anchors(tensors[:levels]), logits, deltas)[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]


class Pool(nn.Module):
    """L levels, boxes -> the boxes' features."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.pooler.pool([level.contiguous() for level in tensors[:-1]], [tensors[-1]])]


class BoxHead(nn.Module):
    """pooled features -> logits and deltas of each proposal."""

    def __init__(self, head: Any, predictor: nn.Module) -> None:
        super().__init__()
        self.head: Any = head
        self.predictor = predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        logits, deltas = self.predictor(self.head(tensors[0]))
        return [logits, deltas]


class BoxInference(nn.Module):
    """logits, deltas, proposals, image -> boxes, scores, classes."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        boxes, scores, classes = self.predictor.detect(
            tensors[0], tensors[1], tensors[2], size_of(tensors[3])
        )
        return [boxes, scores, classes]


class ClippedPool(nn.Module):
    """L levels, boxes, image -> the boxes inside the image, their features."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        boxes = clip_boxes(tensors[-2], size_of(tensors[-1]))
        return [boxes, self.pooler.pool([level.contiguous() for level in tensors[:-2]], [boxes])]


class CascadeBoxes(nn.Module):
    """logits, deltas, the stage's boxes -> scores, the next boxes."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.predictor.probabilities(tensors[0]), self.predictor.decode(tensors[1], tensors[2])]


class CascadeInference(nn.Module):
    """the scores of all stages, the last boxes, image -> boxes, scores, classes."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = own_methods(predictor)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        stages = tensors[:-2]
        total = stages[0]
        for scores in stages[1:]:
            total = total + scores
        mean = total * (1.0 / len(stages))
        boxes, best, classes = self.predictor.select(tensors[-2], mean, size_of(tensors[-1]))
        return [boxes, best, classes]


class PoolWithEmpty(nn.Module):
    """a level, boxes -> their features and those of an empty box: see ``Res5ROIHeads.shared_features``."""

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.pooler = own_methods(pooler)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.pooler.pool(tensors[:-1], [F.pad(tensors[-1], [0, 0, 0, 1])])]


class WithoutEmpty(nn.Module):
    """features and those of an empty box -> the last stage's features of the others."""

    def __init__(self, res5: nn.Module) -> None:
        super().__init__()
        self.res5 = res5

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.res5(tensors[0])[:-1]]


class MeanPredictor(nn.Module):
    """features of each box -> logits and deltas."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        logits, deltas = self.predictor(tensors[0].mean(dim=[2, 3]))
        return [logits, deltas]


class MaskHead(nn.Module):
    """features, boxes, classes -> a mask in each box."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.head.masks(tensors[:-2], [tensors[-2]], tensors[-1])]


class ConvMaskHead(nn.Module):
    """features and, unless all classes share a mask, classes -> a mask in each box.

    An exporter drops an input that nothing is computed from, such as the boxes.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        classes = torch.zeros(0, dtype=torch.int64)
        if len(tensors) > 1:
            classes = tensors[1]
        boxes: List[Tensor] = []
        return [self.head.masks([tensors[0]], boxes, classes)]


class CoarseMasks(nn.Module):
    """L levels, boxes -> the coarse masks of all classes."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head, "box_pooler", "coarse_head")

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.head.coarse_head(self.head.pool_boxes(tensors[:-1], [tensors[-1]]))]


class PointMasks(nn.Module):
    """L levels, boxes, classes, coarse masks -> a mask in each box, refined point by point."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head, "point_pooler", "point_head")

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        logits = self.head.subdivide(tensors[:-3], [tensors[-3]], tensors[-2], tensors[-1])
        return [logits.sigmoid()]


class KeypointDecoding(nn.Module):
    """heatmaps, boxes, image -> keypoints."""

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [heatmaps_to_keypoints(tensors[0], tensors[1], size_of(tensors[2]))]


class SemSegLayers(nn.Module):
    """levels -> logits at the common stride."""

    def __init__(self, head: Any, names: List[str]) -> None:
        super().__init__()
        self.head: Any = head
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        features: Dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            features[name] = tensors[index]
        return [self.head.layers(features)]


class SemSegUpsampling(nn.Module):
    """logits at the common stride, image -> logits of each pixel."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = own_methods(head)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [crop_to_image(self.head.upsample(tensors[0])[0], size_of(tensors[1]))]


class SemSegHead(nn.Module):
    """levels, image -> logits of each pixel, by a head of any kind."""

    def __init__(self, head: Any, names: List[str]) -> None:
        super().__init__()
        self.head: Any = head
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        features: Dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            features[name] = tensors[index]
        return [crop_to_image(self.head(features)[0], size_of(tensors[-1]))]


class RoiHeads(nn.Module):
    """levels, proposals, image -> detections, by ROI heads of any kind."""

    def __init__(self, heads: Any, levels: List[str], names: List[str]) -> None:
        super().__init__()
        self.heads: Any = heads
        self.levels: List[str] = list(levels)
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        features: Dict[str, Tensor] = {}
        for index, name in enumerate(self.levels):
            features[name] = tensors[index]
        found = self.heads.detect(features, [tensors[-2]], [size_of(tensors[-1])])[0]
        return [found[name] for name in self.names]


class Whole(nn.Module):
    """image -> the raw outputs, by a model of any kind."""

    def __init__(self, model: Any, names: List[str]) -> None:
        super().__init__()
        self.model: Any = model
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        found = self.model.detect([tensors[0]])[0]
        return [found[name] for name in self.names]


class Placement(nn.Module):
    """raw outputs, output_size, image -> the outputs in the frame that is asked for."""

    def __init__(self, names: List[str], mask_threshold: float) -> None:
        super().__init__()
        self.names: List[str] = list(names)
        self.mask_threshold = mask_threshold

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        fields: Dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            fields[name] = tensors[index]
        placed = place_outputs(fields, tensors[-1], tensors[-2], self.mask_threshold)
        return [placed[name] for name in self.names]


class Flat(nn.Module):
    """A segment whose tensors come one by one, as a trace and a program take them."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, *tensors: Tensor) -> Tuple[Tensor, ...]:
        """The segment's tensors."""
        return tuple(self.segment(list(tensors)))


class Listed(nn.Module):
    """A segment as TorchScript takes it, which has no function of any number of tensors."""

    def __init__(self, segment: nn.Module, names: List[str]) -> None:
        super().__init__()
        self.segment = segment
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Dict[str, Tensor]]:
        """All tensors of the segment in one list -> its outputs by name, in a list of one."""
        found: Dict[str, Tensor] = {}
        outputs = self.segment(tensors)
        for index, name in enumerate(self.names):
            found[name] = outputs[index]
        return [found]
