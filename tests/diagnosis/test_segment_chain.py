"""The diagnosis runs what modules declare: a user's own head needs no edit elsewhere."""

import ast
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from trained import ROOT, contract_of, picture, write

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.diagnosis.diagnose import diagnose
from detexport.diagnosis.segment_chain import cut, require_faithful
from detexport.modeling import (
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN,
    MaskRCNNConvUpsampleHead,
    ResNet,
    StandardROIHeads,
    build_model,
)
from detexport.modeling.graph_segment import Segment, maps, rows
from detexport.modeling.poolers import pooling_segment
from detexport.modeling.roi_heads.box_head import box_head_segment
from detexport.modeling.roi_heads.fast_rcnn import BoxInference, box_inference_segment

SRC = ROOT / "src/detexport"
WEIGHTS = ROOT / "checkpoints/mask_rcnn.safetensors"


class Gain(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0] * self.factor]


@ROI_HEADS_REGISTRY.register()
class UndeclaredGainROIHeads(StandardROIHeads):
    """Multiplies the features of the boxes, and declares nothing of its own."""

    gain = 1.1

    def detect_boxes(
        self, levels: list[Tensor], proposals: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        pooled = self.box_pooler.pool(levels, proposals) * self.gain
        logits, deltas = self.box_predictor(self.box_head(pooled))
        boxes, scores, classes = self.box_predictor.detect(logits, deltas, proposals[0], image_sizes[0])
        return [{"pred_boxes": boxes, "scores": scores, "pred_classes": classes}]


@ROI_HEADS_REGISTRY.register()
class GainROIHeads(UndeclaredGainROIHeads):
    """The same, declared."""

    def segments(self) -> list[Segment]:
        return [
            pooling_segment("box_plain", self.box_pooler, maps(*self.in_features), "proposal_boxes"),
            Segment("box_gain", Gain(self.gain), rows("box_plain"), rows("box_pooled")),
            box_head_segment("box", self.box_head, self.box_predictor),
            box_inference_segment(BoxInference(self.box_predictor)),
            *self.instance_segments(),
        ]


@PROPOSAL_GENERATOR_REGISTRY.register()
class UndeclaredRPN(RPN):
    """Declares nothing of its own."""


@ROI_MASK_HEAD_REGISTRY.register()
class UndeclaredMaskHead(MaskRCNNConvUpsampleHead):
    """Declares nothing of its own."""


@ROI_MASK_HEAD_REGISTRY.register()
class RedeclaredMaskHead(MaskRCNNConvUpsampleHead):
    """Computes what its parent computes, and says so."""

    segments = MaskRCNNConvUpsampleHead.segments


def trained_with(key: str, name: str) -> Any:
    """The trained Mask R-CNN with a module of another class."""
    cfg = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
    cfg.merge_from_list([f"MODEL.{key}.NAME", name])
    model = build_model(cfg).eval()
    load_weights(model, read_state_dict(WEIGHTS), str(WEIGHTS))
    return model


def test_a_fault_in_a_users_own_head_is_named_by_the_segment_that_it_declares(tmp_path: Path) -> None:
    model, faulty = (trained_with("ROI_HEADS", "GainROIHeads") for _ in range(2))
    faulty.roi_heads.gain = 1.3
    artifact_dir = write(faulty, "tracing", tmp_path)
    found = diagnose(model, artifact_dir, picture(), exported_model=faulty)
    assert found.first is not None
    assert found.first.name == "box_gain"
    assert [one.name for one in found.segments if one.passed is False] == ["box_gain"]
    assert not found.notes


@pytest.mark.parametrize(
    ("key", "name", "segment", "note"),
    [
        ("ROI_HEADS", "UndeclaredGainROIHeads", "roi_heads", "the ROI heads"),
        ("PROPOSAL_GENERATOR", "UndeclaredRPN", "proposals", "the proposal generator"),
        ("ROI_MASK_HEAD", "UndeclaredMaskHead", "mask_head", "the mask head"),
    ],
)
def test_a_module_that_declares_nothing_is_one_segment_with_a_note(
    key: str, name: str, segment: str, note: str, tmp_path: Path
) -> None:
    model = trained_with(key, name)
    found = diagnose(model, write(model, "tracing", tmp_path), picture())
    assert not found.diverges
    assert not found.unknown
    assert segment in [one.name for one in found.segments]
    assert found.notes == (f"{note} is one segment: {name} is not cut further",)


def test_a_subclass_repeats_the_declaration_of_its_parent() -> None:
    model = trained_with("ROI_MASK_HEAD", "RedeclaredMaskHead")
    assert not cut(model, contract_of(model)).notes


def test_a_network_that_declares_nothing_is_one_segment_under_the_pyramid() -> None:
    model = trained_with("ROI_HEADS", "StandardROIHeads")
    model.backbone.bottom_up.__class__ = type("OwnNetwork", (ResNet,), {})
    chain = cut(model, contract_of(model))
    names = [one.name for one in chain.segments]
    assert names[:6] == ["preprocess", "bottom_up", "p5", "p4", "p3", "p2"]
    assert chain.notes == ["the network under the pyramid is one segment: OwnNetwork is not cut further"]
    require_faithful(chain, model, picture())


def test_a_fault_in_a_head_that_declares_nothing_is_named_by_the_whole_head(tmp_path: Path) -> None:
    model, faulty = (trained_with("ROI_HEADS", "UndeclaredGainROIHeads") for _ in range(2))
    faulty.roi_heads.gain = 1.3
    found = diagnose(model, write(faulty, "tracing", tmp_path), picture(), exported_model=faulty)
    assert [one.name for one in found.segments if one.passed is False] == ["roi_heads"]


def names_in(path: Path) -> set[str]:
    """Identifiers of a module: names, attributes, imported names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.alias):
            found |= {node.name.split(".")[-1], node.asname or ""}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return found


def test_no_module_of_the_diagnosis_names_a_class_of_a_model() -> None:
    declared = SRC / "modeling/graph_segment.py"
    classes = {
        node.name
        for path in (SRC / "modeling").rglob("*.py")
        if path != declared
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {"StandardROIHeads", "GeneralizedRCNN", "TorchvisionRCNN"} <= classes
    for path in (SRC / "diagnosis").glob("*.py"):
        assert not names_in(path) & classes, path.name
