"""A model cut between named tensors: its segments, in the order of the computation.

Run one after another they compute what the model computes, to the bit: see ``require_faithful``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet
from torchvision.ops import FeaturePyramidNetwork

from detexport.contract import IMAGE, OUTPUT_SIZE, Contract, TensorSpec
from detexport.diagnosis import parts, torchvision_parts
from detexport.errors import ExportError
from detexport.export.graph_end import image_graph
from detexport.modeling import (
    FPN,
    CascadeROIHeads,
    GeneralizedRCNN,
    MaskRCNNConvUpsampleHead,
    PanopticFPN,
    PointRendMaskHead,
    ProposalNetwork,
    Res5ROIHeads,
    ResNet,
    RetinaNet,
    SemanticSegmentor,
    SemSegFPNHead,
    StandardROIHeads,
)
from detexport.modeling.meta_arch.torchvision_detector import (
    TorchvisionDense,
    TorchvisionRCNN,
    TorchvisionSSD,
    feature_shapes,
)


class Kind(StrEnum):
    """How two sides of a segment's outputs are compared."""

    VALUES = "values"
    """Number by number."""
    CHOICES = "choices"
    """Number by number; a few may lie elsewhere, since rounding decides which level or cell is looked at."""
    PROPOSALS = "proposals"
    """Boxes and logits, paired by IoU."""
    DETECTIONS = "detections"
    """Boxes, scores and classes, paired by class and IoU."""
    KEYPOINTS = "keypoints"
    """Places, of which a few may flip between equal peaks, and scores."""
    OUTPUTS = "outputs"
    """Post-processed outputs, as a verdict compares them."""


@dataclass(frozen=True)
class Port:
    """A tensor between two segments.

    Args:
        name: in the chain, and in the segment's graph.
        free: axes whose size follows the image or what is found in it.
    """

    name: str
    free: tuple[int, ...]

    def spec(self, tensor: Tensor) -> TensorSpec:
        """What a graph says of it; sizes that are not free are those of ``tensor``."""
        shape = [f"{self.name}.{axis}" if axis in self.free else n for axis, n in enumerate(tensor.shape)]
        return TensorSpec(self.name, str(tensor.dtype).removeprefix("torch."), tuple(shape), "")


def maps(*names: str) -> tuple[Port, ...]:
    """Feature maps (1, C, H, W)."""
    return tuple(Port(name, (2, 3)) for name in names)


def rows(*names: str) -> tuple[Port, ...]:
    """A row a proposal or detection, (R, ...)."""
    return tuple(Port(name, (0,)) for name in names)


def dense_maps(names: Sequence[str], outputs: Sequence[str] = ("logits", "deltas")) -> tuple[Port, ...]:
    """What a head gives of each level: the first output of all levels, then the next."""
    return maps(*(f"{output}_{name}" for output in outputs for name in names))


IMAGE_PORT = Port(IMAGE.name, (1, 2))
SIZE_PORT = Port(OUTPUT_SIZE.name, ())
PLACED = "placed_"
"""What the names of outputs in the wanted frame begin with."""
FREE_OUTPUTS = {"sem_seg": (1, 2)}
BOXES = ("pred_boxes", "scores", "pred_classes")
PROPOSALS = rows("proposal_boxes", "objectness_logits")


@dataclass(frozen=True)
class Segment:
    """A part of a model between named tensors.

    Args:
        name: of the segment.
        module: a list of tensors in, a list of tensors out.
        inputs: what it takes.
        outputs: what it gives.
        kind: how its outputs are compared.
    """

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kind: Kind = Kind.VALUES


@dataclass
class Cut:
    """The segments of a model.

    Args:
        contract: of the artifact's graph.
        segments: in the order of the computation.
        notes: where the cuts are coarser than they are for the project's own modules, and why.
        levels: ports of the feature maps, by name.
    """

    contract: Contract
    segments: list[Segment] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    levels: dict[str, Port] = field(default_factory=dict)

    def add(
        self,
        name: str,
        module: nn.Module,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        kind: Kind = Kind.VALUES,
    ) -> None:
        """Append a segment."""
        self.segments.append(Segment(name, module.eval(), tuple(inputs), tuple(outputs), kind))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs in the chain."""
        prefix = PLACED if self.contract.graph_end == "pasted" else ""
        return tuple(f"{prefix}{name}" for name in self.contract.output_names)

    def coarse(self, part: str, module: Any) -> None:
        """Note that a part is not cut further."""
        self.notes.append(f"{part} is one segment: {type(module).__name__} is not cut further")


def cut(model: Any, contract: Contract) -> Cut:
    """Cut a model.

    Args:
        model: in evaluation mode, on the CPU.
        contract: of the artifact's graph.
    """
    result = Cut(contract)
    cutter = CUTTERS.get(type(model))
    if cutter is None:
        result.coarse("the model", model)
        names = list(contract.output_names)
        result.add("model", parts.Whole(model, names), [IMAGE_PORT], _raw_ports(names), Kind.OUTPUTS)
    else:
        cutter(result, model)
    if contract.graph_end == "pasted":
        names = list(contract.output_names)
        placed = [Port(f"{PLACED}{name}", _free_when_placed(name)) for name in names]
        module = parts.Placement(names, contract.mask_threshold)
        result.add("paste", module, [*_raw_ports(names), SIZE_PORT, IMAGE_PORT], placed, Kind.OUTPUTS)
    return result


def _raw_ports(names: Sequence[str]) -> list[Port]:
    return [Port(name, FREE_OUTPUTS.get(name, (0,))) for name in names]


def _free_when_placed(name: str) -> tuple[int, ...]:
    return {"pred_masks": (0, 1, 2), "sem_seg": (1, 2)}.get(name, (0,))


def _two_stage(result: Cut, model: Any) -> None:
    _features(result, model)
    _proposals(result, model.proposal_generator)
    _roi_heads(result, model.roi_heads)


def _panoptic(result: Cut, model: Any) -> None:
    _two_stage(result, model)
    _semantic_head(result, model.sem_seg_head)


def _proposal_network(result: Cut, model: Any) -> None:
    _features(result, model)
    _proposals(result, model.proposal_generator)


def _semantic(result: Cut, model: Any) -> None:
    _features(result, model)
    _semantic_head(result, model.sem_seg_head)


def _retinanet(result: Cut, model: Any) -> None:
    _features(result, model)
    levels = [result.levels[name] for name in model.in_features]
    found = dense_maps(model.in_features)
    result.add("retinanet_head", parts.DenseHead(model.head), levels, found)
    result.add("detections", parts.DenseDetections(model), found, rows(*BOXES), Kind.DETECTIONS)


def _features(result: Cut, model: Any) -> None:
    """The image and the backbone."""
    result.add("preprocess", parts.Preprocess(model), [IMAGE_PORT], maps("batch"))
    backbone = model.backbone
    bottom_up = getattr(backbone, "bottom_up", backbone)
    if type(backbone) not in (FPN, ResNet) or type(bottom_up) is not ResNet:
        result.coarse("the backbone", backbone)
        names = list(backbone.output_shape())
        result.add("backbone", parts.NamedMaps(backbone, names), maps("batch"), maps(*names))
    else:
        _stages(result, bottom_up)
        names = list(bottom_up.stage_names)
        if type(backbone) is FPN:
            names += _pyramid(result, backbone)
    result.levels |= {name: maps(name)[0] for name in names}


def _stages(result: Cut, network: Any) -> None:
    for before, name in pairwise(["batch", *network.stage_names]):
        result.add(name, parts.Layers(getattr(network, name)), maps(before), maps(name))


def _pyramid(result: Cut, fpn: Any) -> list[str]:
    """The levels from coarse to fine, and those above them."""
    names = []
    above: tuple[Port, ...] = ()
    for level in sorted((level for level, name in fpn.in_names.items() if name), reverse=True):
        name, fused = f"p{level}", maps(f"fused{level}")
        stage = maps(fpn.in_names[level])
        result.add(name, parts.PyramidLevel(fpn, level), [*stage, *above], [*fused, *maps(name)])
        above = fused
        names.append(name)
    if fpn.top_block is not None:
        top = [name for name in fpn.output_shape() if name not in names]
        result.add("+".join(top), parts.NamedMaps(fpn.top_block, top), maps(fpn.top_feature), maps(*top))
        names += top
    return names


def _proposals(result: Cut, rpn: Any) -> None:
    levels = [result.levels[name] for name in rpn.in_features]
    found = dense_maps(rpn.in_features)
    result.add("rpn_head", parts.DenseHead(rpn.rpn_head), levels, found)
    result.add("proposals", parts.Proposals(rpn), [*found, IMAGE_PORT], PROPOSALS, Kind.PROPOSALS)


def _roi_heads(result: Cut, heads: Any) -> None:
    if type(heads) is Res5ROIHeads:
        _res5_heads(result, heads)
        return
    levels = [result.levels[name] for name in heads.in_features]
    if type(heads) is StandardROIHeads:
        _box_inference(result, heads, _box_head(result, heads.box_pooler, heads, levels))
    elif type(heads) is CascadeROIHeads:
        _cascade(result, heads, levels)
    else:
        result.coarse("the ROI heads", heads)
        names = [name for name in result.contract.output_names if name != "sem_seg"]
        module = parts.RoiHeads(heads, list(heads.in_features), names)
        taken = [*levels, *rows("proposal_boxes"), IMAGE_PORT]
        result.add("roi_heads", module, taken, _raw_ports(names), Kind.OUTPUTS)
        return
    _mask_head(result, heads, levels)
    if heads.keypoint_on:
        _keypoints(result, heads.keypoint_pooler, heads.keypoint_head, levels)


def _box_head(result: Cut, pooler: Any, heads: Any, levels: list[Port]) -> tuple[Port, ...]:
    """Logits and deltas of each proposal."""
    boxes, pooled, found = rows("proposal_boxes"), rows("box_pooled"), rows("box_logits", "box_deltas")
    result.add("box_pooled", parts.Pool(pooler), [*levels, *boxes], pooled, Kind.CHOICES)
    result.add("box_head", parts.BoxHead(heads.box_head, heads.box_predictor), pooled, found)
    return found


def _box_inference(result: Cut, heads: Any, found: Sequence[Port]) -> None:
    module = parts.BoxInference(heads.box_predictor)
    taken = [*found, *rows("proposal_boxes"), IMAGE_PORT]
    result.add("box_inference", module, taken, rows(*BOXES), Kind.DETECTIONS)


def _cascade(result: Cut, heads: Any, levels: list[Port]) -> None:
    before = rows("proposal_boxes")
    scores: list[Port] = []
    for stage, (head, predictor) in enumerate(zip(heads.box_head, heads.box_predictor, strict=True)):
        pooled = rows(f"stage{stage}_pooled")
        if stage:
            clipped = rows(f"stage{stage}_clipped")
            module: nn.Module = parts.ClippedPool(heads.box_pooler)
            taken = [*levels, *before, IMAGE_PORT]
            result.add(f"stage{stage}_pooled", module, taken, [*clipped, *pooled], Kind.CHOICES)
            before = clipped
        else:
            module = parts.Pool(heads.box_pooler)
            result.add(f"stage{stage}_pooled", module, [*levels, *before], pooled, Kind.CHOICES)
        found = rows(f"stage{stage}_logits", f"stage{stage}_deltas")
        result.add(f"stage{stage}_head", parts.BoxHead(head, predictor), pooled, found)
        given = rows(f"stage{stage}_scores", f"stage{stage}_boxes")
        result.add(f"stage{stage}_boxes", parts.CascadeBoxes(predictor), [*found, *before], given)
        scores.append(given[0])
        before = given[1:]
    module = parts.CascadeInference(heads.box_predictor[-1])
    result.add("box_inference", module, [*scores, *before, IMAGE_PORT], rows(*BOXES), Kind.DETECTIONS)


def _res5_heads(result: Cut, heads: Any) -> None:
    levels = [result.levels[name] for name in heads.in_features]
    boxes = rows("proposal_boxes")
    result.add("box_pooled", parts.PoolWithEmpty(heads.pooler), [*levels, *boxes], rows("box_pooled"))
    result.add("box_res5", parts.WithoutEmpty(heads.res5), rows("box_pooled"), rows("box_res5"))
    found = rows("box_logits", "box_deltas")
    result.add("box_head", parts.MeanPredictor(heads.box_predictor), rows("box_res5"), found)
    _box_inference(result, heads, found)
    if heads.mask_on:
        taken = [*levels, *rows("pred_boxes")]
        result.add("mask_pooled", parts.PoolWithEmpty(heads.pooler), taken, rows("mask_pooled"))
        result.add("mask_res5", parts.WithoutEmpty(heads.res5), rows("mask_pooled"), rows("mask_res5"))
        _pooled_mask_head(result, heads.mask_head, rows("mask_res5"))


def _mask_head(result: Cut, heads: Any, levels: list[Port]) -> None:
    if not heads.mask_on:
        return
    detections = rows("pred_boxes", "pred_classes")
    if heads.mask_pooler is not None:
        module: nn.Module = parts.Pool(heads.mask_pooler)
        result.add("mask_pooled", module, [*levels, detections[0]], rows("mask_pooled"), Kind.CHOICES)
        _pooled_mask_head(result, heads.mask_head, rows("mask_pooled"))
    elif type(heads.mask_head) is PointRendMaskHead and heads.mask_head.point_head is not None:
        coarse = rows("coarse_masks")
        head = heads.mask_head
        seen = levels[: max(head.box_pooler.places) + 1]
        result.add("coarse_mask_head", parts.CoarseMasks(head), [*seen, detections[0]], coarse)
        seen = levels[: max(head.point_pooler.places) + 1]
        taken = [*seen, *detections, *coarse]
        module = parts.PointMasks(heads.mask_head)
        result.add("point_head", module, taken, rows("pred_masks"), Kind.CHOICES)
    else:
        result.coarse("the mask head", heads.mask_head)
        module = parts.MaskHead(heads.mask_head)
        result.add("mask_head", module, [*levels, *detections], rows("pred_masks"), Kind.CHOICES)


def _pooled_mask_head(result: Cut, head: Any, pooled: tuple[Port, ...]) -> None:
    if type(head) is MaskRCNNConvUpsampleHead:
        module: nn.Module = parts.ConvMaskHead(head)
        taken = [*pooled, *(rows("pred_classes") if head.predictor.out_channels > 1 else ())]
    else:
        result.coarse("the mask head", head)
        module = parts.MaskHead(head)
        taken = [*pooled, *rows("pred_boxes", "pred_classes")]
    result.add("mask_head", module, taken, rows("pred_masks"))


def _keypoints(result: Cut, pooler: Any, head: nn.Module, levels: list[Port]) -> None:
    boxes = rows("pred_boxes")
    pooled, heatmaps = rows("keypoint_pooled"), rows("keypoint_heatmaps")
    result.add("keypoint_pooled", parts.Pool(pooler), [*levels, *boxes], pooled, Kind.CHOICES)
    result.add("keypoint_head", parts.Layers(head), pooled, heatmaps)
    taken = [*heatmaps, *boxes, IMAGE_PORT]
    result.add("keypoints", parts.KeypointDecoding(), taken, rows("pred_keypoints"), Kind.KEYPOINTS)


def _semantic_head(result: Cut, head: Any) -> None:
    sem_seg = [Port("sem_seg", (1, 2))]
    if type(head) is SemSegFPNHead:
        names = [name for name in ("p2", "p3", "p4", "p5") if getattr(head, name) is not None]
        levels = [result.levels[name] for name in names]
        result.add("sem_seg_head", parts.SemSegLayers(head, names), levels, maps("sem_seg_logits"))
        taken = [*maps("sem_seg_logits"), IMAGE_PORT]
        result.add("sem_seg_upsampled", parts.SemSegUpsampling(head), taken, sem_seg)
    else:
        result.coarse("the semantic head", head)
        names = list(result.levels)
        taken = [*result.levels.values(), IMAGE_PORT]
        result.add("sem_seg_head", parts.SemSegHead(head, names), taken, sem_seg, Kind.CHOICES)


def _torchvision_rcnn(result: Cut, model: Any) -> None:
    names = _torchvision_features(result, model)
    found = dense_maps(names)
    result.add("rpn_head", parts.DenseHead(model.rpn.head), maps(*names), found)
    taken = [*found, *maps("batch"), IMAGE_PORT]
    result.add("proposals", torchvision_parts.Proposals(model), taken, PROPOSALS, Kind.PROPOSALS)

    heads = model.roi_heads
    found = _box_head(result, model.box_pooler, heads, _pooled_levels(model.box_pooler))
    taken = [*found, *rows("proposal_boxes"), IMAGE_PORT]
    module = torchvision_parts.BoxInference(model)
    result.add("box_inference", module, taken, rows(*BOXES), Kind.DETECTIONS)
    if model.mask_pooler is not None:
        taken, pooled = [*_pooled_levels(model.mask_pooler), *rows("pred_boxes")], rows("mask_pooled")
        result.add("mask_pooled", parts.Pool(model.mask_pooler), taken, pooled, Kind.CHOICES)
        taken = [*pooled, *rows("pred_classes")]
        result.add("mask_head", torchvision_parts.MaskHead(heads), taken, rows("pred_masks"))
    if model.keypoint_pooler is not None:
        layers = nn.Sequential(heads.keypoint_head, heads.keypoint_predictor)
        _keypoints(result, model.keypoint_pooler, layers, _pooled_levels(model.keypoint_pooler))


def _level_names(count: int) -> list[str]:
    return [f"level{index}" for index in range(count)]


def _pooled_levels(pooler: Any) -> list[Port]:
    return list(maps(*_level_names(len(pooler.scales))))


def _torchvision_dense(result: Cut, model: Any) -> None:
    names = _torchvision_features(result, model)
    outputs = {"cls_logits": "logits", "bbox_regression": "deltas"}
    if model.has_centerness:
        outputs["bbox_ctrness"] = "centerness"
    found = dense_maps(names, list(outputs.values()))
    head = "fcos_head" if model.has_centerness else "retinanet_head"
    result.add(head, torchvision_parts.DenseHead(model, list(outputs)), maps(*names), found)
    module = torchvision_parts.DenseDetections(model, list(outputs))
    taken = [*found, *maps("batch"), IMAGE_PORT]
    result.add("detections", module, taken, rows(*BOXES), Kind.DETECTIONS)


def _torchvision_ssd(result: Cut, model: Any) -> None:
    batch = Port("batch", ())
    result.add("preprocess", torchvision_parts.Stretch(model), [IMAGE_PORT], [batch])
    count = len(feature_shapes(model.backbone, (model.fixed_height, model.fixed_width)))
    levels = [Port(name, ()) for name in _level_names(count)]
    if type(model.backbone) is SSDLiteFeatureExtractorMobileNet:
        blocks = [*model.backbone.features, *model.backbone.extra]
        for before, level, block in zip([batch, *levels], levels, blocks, strict=False):
            result.add(level.name, parts.Layers(block), [before], [level])
    else:
        result.coarse("the backbone", model.backbone)
        result.add("backbone", torchvision_parts.Levels(model.backbone), [batch], levels)
    found = [Port("logits", ()), Port("deltas", ())]
    result.add("ssd_head", torchvision_parts.SSDHead(model.head), levels, found)
    module = torchvision_parts.SSDDetections(model)
    result.add("detections", module, [*found, IMAGE_PORT], rows(*BOXES), Kind.DETECTIONS)


def _torchvision_features(result: Cut, model: Any) -> list[str]:
    """The image, and the backbone; gives the names of its levels."""
    result.add("preprocess", parts.Preprocess(model), [IMAGE_PORT], maps("batch"))
    names = _level_names(len(model.cells))
    _torchvision_backbone(result, model.backbone, maps(*names))
    return names


def _torchvision_backbone(result: Cut, backbone: Any, levels: tuple[Port, ...]) -> None:
    """The body's stages and the pyramid over them."""
    whole = (BackboneWithFPN, IntermediateLayerGetter, FeaturePyramidNetwork)
    found = tuple(type(getattr(backbone, name, None)) for name in ("body", "fpn"))
    if (type(backbone), *found) != whole:
        result.coarse("the backbone", backbone)
        result.add("backbone", torchvision_parts.Levels(backbone), maps("batch"), levels)
        return
    body, before = backbone.body, "batch"
    stages: list[str] = []

    def place(item: tuple[str, nn.Module]) -> str:
        """A block is a segment; layers of a stem, one after another, are one together."""
        name, layer = item
        return name if name in body.return_layers or any(layer.children()) else ""

    for _, layers in groupby(body.items(), place):
        names, modules = zip(*layers, strict=True)
        name = "stem" if len(names) > 1 and not stages else names[-1]
        name = f"stage{name}" if name.isdigit() else name
        result.add(name, parts.Layers(nn.Sequential(*modules)), maps(before), maps(name))
        before = name
        if names[-1] in body.return_layers:
            stages.append(name)
    pyramid = torchvision_parts.Pyramid(backbone.fpn, list(body.return_layers.values()))
    result.add("fpn", pyramid, maps(*stages), levels)


CUTTERS: dict[type, Any] = {
    GeneralizedRCNN: _two_stage,
    PanopticFPN: _panoptic,
    ProposalNetwork: _proposal_network,
    RetinaNet: _retinanet,
    SemanticSegmentor: _semantic,
    TorchvisionDense: _torchvision_dense,
    TorchvisionRCNN: _torchvision_rcnn,
    TorchvisionSSD: _torchvision_ssd,
}
"""By the exact class: one that extends it may compute something else."""


@dataclass(frozen=True)
class Step:
    """A segment with the eager model's tensors.

    Args:
        segment: of the eager model.
        inputs: what it took.
        outputs: what it gave.
    """

    segment: Segment
    inputs: list[Tensor]
    outputs: list[Tensor]


def given_tensors(image: np.ndarray, contract: Contract) -> dict[str, Tensor]:
    """What the chain begins with."""
    tensors = {IMAGE_PORT.name: torch.from_numpy(np.require(image, requirements=("C", "W")))}
    if contract.graph_end == "pasted":
        tensors[SIZE_PORT.name] = torch.tensor(image.shape[1:])
    return tensors


def walk(chain: Cut, image: np.ndarray) -> Iterator[Step]:
    """Run the segments one after another; a tensor is dropped after its last use.

    Args:
        chain: the eager model's.
        image: uint8 (3, H, W).
    """
    tensors = given_tensors(image, chain.contract)
    last_use = {port.name: index for index, one in enumerate(chain.segments) for port in one.inputs}
    for index, segment in enumerate(chain.segments):
        inputs = [tensors[port.name] for port in segment.inputs]
        with torch.no_grad():
            outputs = segment.module(inputs)
        tensors |= {port.name: value for port, value in zip(segment.outputs, outputs, strict=True)}
        yield Step(segment, inputs, outputs)
        kept = {name for name, last in last_use.items() if last > index} | set(chain.output_names)
        tensors = {name: value for name, value in tensors.items() if name in kept}


def require_faithful(chain: Cut, model: Any, image: np.ndarray) -> dict[str, np.ndarray]:
    """See that the segments compute what the model computes.

    Returns:
        The graph's outputs by the contract's names.

    Raises:
        ExportError: they do not, to the bit.
    """
    contract = chain.contract
    found: dict[str, Tensor] = {}
    for step in walk(chain, image):
        found |= {port.name: value for port, value in zip(step.segment.outputs, step.outputs, strict=True)}
        found = {name: value for name, value in found.items() if name in chain.output_names}
    with torch.no_grad():
        expected = image_graph(model, contract)(*given_tensors(image, contract).values())
    differing = [
        name
        for name, in_chain, want in zip(contract.output_names, chain.output_names, expected, strict=True)
        if not np.array_equal(found[in_chain].numpy(), want.numpy(), equal_nan=want.is_floating_point())
    ]
    if differing:
        raise ExportError(
            "the segments do not compute what the model computes, so they can show nothing",
            got=f"other {', '.join(differing)}",
            expected="the model's outputs, to the bit",
            remedy="give the model as it is built from its configuration: a method that was replaced is not "
            "followed",
        )
    return {name: want.numpy() for name, want in zip(contract.output_names, expected, strict=True)}
