"""The segments' modules of torchvision's models, where those of ``parts`` do not fit."""

from typing import Any, Dict, List

from torch import Tensor, nn

from detexport.diagnosis.parts import own_methods, size_of
from detexport.modeling.anchor_generator import by_anchor
from detexport.modeling.meta_arch.torchvision_detector import anchor_grids
from detexport.modeling.roi_heads.mask_head import class_masks


class Levels(nn.Module):
    """batch -> the levels of a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return list(self.backbone(tensors[0]).values())


class Pyramid(nn.Module):
    """stages -> levels."""

    def __init__(self, fpn: Any, names: List[str]) -> None:
        super().__init__()
        self.fpn: Any = fpn
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        stages: Dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            stages[name] = tensors[index]
        return list(self.fpn(stages).values())


class Proposals(nn.Module):
    """L maps of logits, L of deltas, batch, image -> boxes and their logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        levels = len(tensors) // 2 - 1
        maps, batch, image = tensors[:levels], tensors[-2], tensors[-1]
        logits = [by_anchor(one, 1).flatten(1) for one in maps]
        deltas = [by_anchor(one, 4) for one in tensors[levels : 2 * levels]]
        anchors = anchor_grids(batch, maps, self.model.cells)
        boxes, scores = self.model.find_proposals(anchors, logits, deltas, [size_of(image)])[0]
        return [boxes, scores]


class BoxInference(nn.Module):
    """logits, deltas, proposals, image -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        found = self.model.select_boxes(tensors[0], tensors[1], [tensors[2]], [size_of(tensors[3])])[0]
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]


class MaskHead(nn.Module):
    """pooled features, classes -> a mask in each box."""

    def __init__(self, heads: Any) -> None:
        super().__init__()
        self.head = heads.mask_head
        self.predictor = heads.mask_predictor

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [class_masks(self.predictor(self.head(tensors[0])), tensors[1] + 1)]


class DenseHead(nn.Module):
    """L levels -> L maps of each of the head's outputs."""

    def __init__(self, model: Any, names: List[str]) -> None:
        super().__init__()
        self.model = own_methods(model, "head")
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        levels = [self.model.predict(level) for level in tensors]
        found: List[Tensor] = []
        for name in self.names:
            found += [maps[name] for maps in levels]
        return found


class DenseDetections(nn.Module):
    """L maps of each of the head's outputs, batch, image -> boxes, scores, classes."""

    def __init__(self, model: Any, names: List[str]) -> None:
        super().__init__()
        self.model = own_methods(model)
        self.names: List[str] = list(names)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
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


class Stretch(nn.Module):
    """image -> the batch of it, of the fixed size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        return [self.model.stretch(self.model.normalize(tensors[0]))]


class SSDHead(nn.Module):
    """levels -> logits and deltas of each default box."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        outputs: Dict[str, Tensor] = self.head(tensors)
        return [outputs["cls_logits"], outputs["bbox_regression"]]


class SSDDetections(nn.Module):
    """logits, deltas, image -> boxes, scores, classes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = own_methods(model)

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """See the class."""
        found = self.model.find_detections(tensors[0][0], tensors[1][0], tensors[2])
        return [found["pred_boxes"], found["scores"], found["pred_classes"]]
