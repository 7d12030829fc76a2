"""A fault is planted in the model that is exported; the diagnosis names the segment that it is in."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from trained import ROOT, contract_of, picture, trained_model, write

from detexport.config.cfg import load_cfg
from detexport.diagnosis.diagnose import POSTPROCESSING, Diagnosis, diagnose
from detexport.diagnosis.drawing import save_evidence
from detexport.diagnosis.segment_chain import cut
from detexport.errors import ExportError, RuntimeUnavailableError
from detexport.export import Provenance
from detexport.modeling import build_model
from detexport.targets.table import targets
from makers import maker

Fault = Callable[[Any], None]


def flip(*path: str) -> Fault:
    """The kernel of a convolution turned upside down, or the columns of a matrix turned round."""

    def plant(model: Any) -> None:
        for one in path:
            weight = model.get_submodule(one).weight
            weight.data = weight.data.flip(weight.dim() - 2 if weight.dim() == 4 else 1).contiguous()

    return plant


def swap_channels(path: str) -> Fault:
    def plant(model: Any) -> None:
        weight = model.get_submodule(path).weight
        weight.data[[0, 1]] = weight.data[[1, 0]]

    return plant


def set_value(path: str, value: Any) -> Fault:
    def plant(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        assert getattr(model.get_submodule(owner), name) != value
        setattr(model.get_submodule(owner), name, value)

    return plant


def swap_colours(model: Any) -> None:
    model.pixel_mean = model.pixel_mean.flip(0) + torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)


class InHalf(nn.Module):
    """A layer that computes in half precision."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.half()).float()


def halve(path: str) -> Fault:
    def plant(model: Any) -> None:
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, InHalf(model.get_submodule(path)))

    return plant


def diagnose_planted(name: str, fault: Fault, method: str, folder: Path, target: str = "") -> Diagnosis:
    """The model as it should be against an artifact of a faulty copy."""
    faulty = trained_model(name)
    fault(faulty)
    artifact_dir = write(faulty, method, folder)
    return diagnose(trained_model(name), artifact_dir, picture(), exported_model=faulty, target=target)


NOTHING = "Nothing diverges on this image: the artifact and every segment pass."
BODY = ["stem", "layer1", "layer2", "layer3", "layer4", "fpn"]
BOXES = [*BODY, "rpn_head", "proposals", "box_pooled", "box_head", "box_inference"]
# Segments between the image and the outputs of torchvision's small models.
TORCHVISION = {
    "faster_rcnn": BOXES,
    "mask_rcnn": [*BOXES, "mask_pooled", "mask_head"],
    "keypoint_rcnn": [*BOXES, "keypoint_pooled", "keypoint_head", "keypoints"],
    "retinanet": [*BODY, "retinanet_head", "detections"],
    "fcos": [*BODY, "fcos_head", "detections"],
    "ssd": ["backbone", "ssd_head", "detections"],
    "ssdlite": [*(f"level{index}" for index in range(6)), "ssd_head", "detections"],
}
METHODS = ["scripting", "onnx", "torch_export", "onnx_torchscript", "openvino"]

# The model, the segment, and a fault in it.
FAULTS: list[tuple[str, str, Fault]] = [
    ("mask_rcnn", "preprocess", set_value("size_divisibility", 128)),
    ("mask_rcnn", "preprocess", swap_colours),
    ("mask_rcnn", "stem", set_value("backbone.bottom_up.stem.conv1.padding_mode", "circular")),
    ("mask_rcnn", "res2", swap_channels("backbone.bottom_up.res2.0.conv1")),
    ("mask_rcnn", "res4", set_value("backbone.bottom_up.res4.0.conv1.relu", False)),
    ("mask_rcnn", "p5", flip("backbone.fpn_output5")),
    ("mask_rcnn", "p2", swap_channels("backbone.fpn_output2")),
    ("mask_rcnn", "rpn_head", swap_channels("proposal_generator.rpn_head.anchor_deltas")),
    ("mask_rcnn", "rpn_head", halve("proposal_generator.rpn_head.conv")),
    ("mask_rcnn", "proposals", set_value("proposal_generator.nms_threshold", 0.3)),
    ("mask_rcnn", "proposals", set_value("proposal_generator.post_nms_topk_test", 20)),
    ("mask_rcnn", "box_pooled", set_value("roi_heads.box_pooler.aligned", False)),
    ("mask_rcnn", "box_pooled", set_value("roi_heads.box_pooler.scales", [0.24, 0.125, 0.0625, 0.03125])),
    ("mask_rcnn", "box_head", flip("roi_heads.box_head.fc1")),
    ("mask_rcnn", "box_inference", set_value("roi_heads.box_predictor.nms_threshold", 0.1)),
    ("mask_rcnn", "box_inference", set_value("roi_heads.box_predictor.score_threshold", 0.6)),
    ("mask_rcnn", "mask_pooled", set_value("roi_heads.mask_pooler.sampling_ratio", 1)),
    ("mask_rcnn", "mask_head", halve("roi_heads.mask_head.mask_fcn1")),
    ("keypoint_rcnn", "keypoint_pooled", set_value("roi_heads.keypoint_pooler.aligned", False)),
    ("keypoint_rcnn", "keypoint_head", flip("roi_heads.keypoint_head.score_lowres")),
    ("retinanet", "retinanet_head", flip("head.cls_score")),
    ("retinanet", "detections", set_value("nms_threshold", 0.1)),
    ("cascade_mask_rcnn", "stage1_head", flip("roi_heads.box_head.1.fc1")),
    ("cascade_mask_rcnn", "stage2_boxes", set_value("roi_heads.box_predictor.2.box_weights", [9.0] * 4)),
    ("pointrend", "coarse_mask_head", flip("roi_heads.mask_head.coarse_head.fc1")),
    ("pointrend", "point_head", swap_channels("roi_heads.mask_head.point_head.fc1")),
    ("panoptic_fpn", "sem_seg_head", swap_channels("sem_seg_head.predictor")),
    ("torchvision_mask_rcnn", "stem", swap_channels("backbone.body.stem.0")),
    ("torchvision_mask_rcnn", "fpn", swap_channels("backbone.fpn.layer_blocks.0.0")),
    ("torchvision_mask_rcnn", "rpn_head", swap_channels("rpn.head.bbox_pred")),
    ("torchvision_mask_rcnn", "proposals", set_value("rpn_nms_threshold", 0.3)),
    ("torchvision_mask_rcnn", "box_inference", set_value("nms_threshold", 0.1)),
    ("torchvision_mask_rcnn", "mask_head", halve("roi_heads.mask_predictor.conv5_mask")),
    ("torchvision_keypoint_rcnn", "keypoint_head", flip("roi_heads.keypoint_predictor.kps_score_lowres")),
    ("torchvision_retinanet", "retinanet_head", flip("head.classification_head.cls_logits")),
    ("torchvision_retinanet", "detections", set_value("nms_threshold", 0.1)),
    ("torchvision_fcos", "fcos_head", flip("head.regression_head.bbox_ctrness")),
    ("torchvision_fcos", "detections", set_value("score_threshold", 0.6)),
    ("torchvision_ssd", "preprocess", swap_colours),
    ("torchvision_ssd", "backbone", swap_channels("backbone.others.0.conv1")),
    ("torchvision_ssd", "ssd_head", flip("head.classification_head.module_list.0")),
    ("torchvision_ssdlite", "level2", swap_channels("backbone.extra.0.0.0")),
    ("torchvision_ssdlite", "detections", set_value("box_weights", [9.0] * 4)),
]
# Faults in segments that are cut as those above.
ALIKE: list[tuple[str, str, Fault]] = [
    ("torchvision_mask_rcnn", "layer3", flip("backbone.body.layer3.conv1")),
    ("torchvision_mask_rcnn", "box_pooled", set_value("box_pooler.aligned", True)),
    ("torchvision_mask_rcnn", "box_head", flip("roi_heads.box_head.fc6")),
    ("torchvision_mask_rcnn", "mask_pooled", set_value("mask_pooler.sampling_ratio", 1)),
    ("torchvision_keypoint_rcnn", "keypoint_pooled", set_value("keypoint_pooler.aligned", True)),
]


def seen_before(index: int) -> bool:
    """Whether an earlier fault is in a segment of this name, of any model."""
    return FAULTS[index][1] in [segment for _, segment, _ in FAULTS[:index]]


@pytest.mark.parametrize(
    ("name", "segment", "fault"),
    [
        *(
            pytest.param(
                *case, id=f"{case[0]}-{case[1]}-{i}", marks=pytest.mark.slow if seen_before(i) else ()
            )
            for i, case in enumerate(FAULTS)
        ),
        *(pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=pytest.mark.slow) for case in ALIKE),
    ],
)
def test_a_fault_is_named_in_a_trace(name: str, segment: str, fault: Fault, tmp_path: Path) -> None:
    found = diagnose_planted(name, fault, "tracing", tmp_path)
    assert found.first is not None
    assert found.first.name == segment, found.sentence
    assert found.sentence.startswith(f"The first divergence is {segment}")
    assert not found.unknown


class Spoilt(nn.Module):
    """A segment whose numbers are a thousandth too large, and whose places move by as much."""

    def __init__(self, segment: nn.Module) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, tensors: list[Tensor]) -> list[Tensor]:
        outputs = self.segment(tensors)
        return [value * 1.001 if value.is_floating_point() else value for value in outputs]


OURS = ("mask_rcnn_C4", "keypoint_rcnn", "cascade_mask_rcnn", "pointrend", "retinanet")


@pytest.mark.parametrize(
    ("name", "graph_end"),
    [
        ("panoptic_fpn", "pasted"),
        *((name, "raw") for name in (*OURS, *(f"torchvision_{name}" for name in TORCHVISION))),
    ],
)
def test_every_segment_answers_for_itself(
    name: str, graph_end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in all of them at once: each is fed the eager model's tensors, so none hides another's."""
    monkeypatch.setattr(
        "detexport.diagnosis.diagnose._modules",
        lambda chain, _: [Spoilt(segment.module) for segment in chain.segments],
    )
    model = trained_model(name)
    contract, provenance = contract_of(model), Provenance("weights", "config")
    maker("tracing", graph_end=graph_end).export(
        model, picture(), tmp_path / "a", contract=contract, provenance=provenance
    )
    found = diagnose(model, tmp_path / "a", picture())
    assert [one.name for one in found.segments if one.passed is not False] == [POSTPROCESSING]
    assert (graph_end == "pasted") == ("paste" in [one.name for one in found.segments])


def test_a_faultless_model_diverges_nowhere(tmp_path: Path) -> None:
    model = trained_model("mask_rcnn")
    found = diagnose(model, write(model, "tracing", tmp_path), picture())
    assert found.sentence == NOTHING
    assert [one.name for one in found.segments][-3:] == ["mask_pooled", "mask_head", POSTPROCESSING]
    assert found.recorded_size != found.image_size
    assert found.evidence is None


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_models_are_cut_as_ours(name: str, tmp_path: Path) -> None:
    model = trained_model(f"torchvision_{name}")
    found = diagnose(model, write(model, "tracing", tmp_path), picture())
    assert found.sentence == NOTHING
    assert [one.name for one in found.segments] == ["preprocess", *TORCHVISION[name], POSTPROCESSING]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("maskrcnn_resnet50_fpn", ["stem", "layer1", "layer2", "layer3", "layer4", "fpn"]),
        ("fasterrcnn_mobilenet_v3_large_fpn", [*(f"stage{index}" for index in range(17)), "fpn"]),
        ("ssd300_vgg16", ["backbone"]),
    ],
)
def test_torchvisions_own_backbones_are_cut_by_their_blocks(name: str, stages: list[str]) -> None:
    cfg = load_cfg(ROOT / "conf/torchvision/detector.yaml")
    cfg.MODEL.TORCHVISION.NAME = name
    model = build_model(cfg).eval()
    names = [one.name for one in cut(model, contract_of(model)).segments]
    assert names[1 : 1 + len(stages)] == stages
    assert names[1 + len(stages)].endswith("_head")


def test_where_only_the_artifact_fails_the_packaging_is_blamed(tmp_path: Path) -> None:
    other = trained_model("mask_rcnn")
    swap_channels("roi_heads.box_predictor.cls_score")(other)
    found = diagnose(trained_model("mask_rcnn"), write(other, "tracing", tmp_path), picture())
    assert found.first is None
    assert not found.artifact.passed
    assert "packaging" in found.sentence
    assert found.artifact.why in found.sentence
    assert "its precision, bf16" in replace(found, precision="bf16").sentence


def test_what_a_trace_freezes_shows_since_it_is_recorded_at_another_size(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        """The size of the map is a number in the trace, without the warning that the export looks for."""

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                height, width = int(x.shape[2]), int(x.shape[3])
            return nn.functional.interpolate(self.layer(x), size=(height, width))

    def plant(model: Any) -> None:
        model.backbone.fpn_output4 = Frozen(model.backbone.fpn_output4)

    found = diagnose_planted("mask_rcnn", plant, "tracing", tmp_path)
    assert found.first is not None
    assert found.first.name == "p4"


def test_a_model_whose_methods_were_replaced_is_refused(tmp_path: Path) -> None:
    model = trained_model("mask_rcnn")
    artifact_dir = write(model, "tracing", tmp_path)
    add_masks = model.roi_heads.add_masks

    def inverted(levels: Any, detections: Any) -> Any:
        return [{**one, "pred_masks": 1 - one["pred_masks"]} for one in add_masks(levels, detections)]

    model.roi_heads.add_masks = inverted
    with pytest.raises(ExportError, match="pred_masks"):
        diagnose(model, artifact_dir, picture())


def test_models_that_are_cut_otherwise_are_refused(tmp_path: Path) -> None:
    model = trained_model("mask_rcnn")
    artifact_dir = write(model, "tracing", tmp_path)
    with pytest.raises(ExportError, match="the exported model has other segments"):
        diagnose(model, artifact_dir, picture(), exported_model=trained_model("faster_rcnn"))


def test_the_json_is_plain_and_the_picture_is_drawn(tmp_path: Path) -> None:
    found = diagnose_planted("mask_rcnn", flip("backbone.fpn_output5"), "tracing", tmp_path)
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert value["needed"] is True
    assert value["first"] == "p5"
    by_name = {one["name"]: one for one in value["segments"]}
    assert by_name["p5"]["passed"] is False
    assert by_name["p5"]["errors"]["relative"] > by_name["p5"]["limits"]["relative"]
    assert by_name["p4"]["passed"] is True
    assert found.evidence is not None
    save_evidence(tmp_path / "p5.png", found.evidence, "BGR")
    assert min(Image.open(tmp_path / "p5.png").size) > 100


def together(*faults: Fault) -> Fault:
    def plant(model: Any) -> None:
        for fault in faults:
            fault(model)

    return plant


def diverging(found: Diagnosis) -> list[str]:
    """Names of the segments that differ; none hides another, since each takes the eager model's tensors."""
    assert not found.unknown
    return [one.name for one in found.segments if not one.passed]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_faults_are_named_by_every_method(method: str, tmp_path: Path) -> None:
    fault = together(
        swap_channels("backbone.bottom_up.res3.0.conv1"),
        set_value("proposal_generator.nms_threshold", 0.3),
        swap_channels("roi_heads.mask_head.mask_fcn1"),
    )
    found = diagnose_planted("mask_rcnn", fault, method, tmp_path)
    assert diverging(found) == ["res3", "proposals", "mask_head"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mask_rcnn", "fcos", "ssd"])
def test_torchvisions_segments_pass_by_every_method(name: str, method: str, tmp_path: Path) -> None:
    model = trained_model(f"torchvision_{name}")
    found = diagnose(model, write(model, method, tmp_path), picture())
    assert found.sentence == NOTHING


# Of each kind of head one fault, in code that is compiled segment by segment.
COMPILED: dict[str, dict[str, Fault]] = {
    "torchvision_ssd": {"backbone": swap_channels("backbone.others.0.conv1")},
    "retinanet": {
        "retinanet_head": flip("head.cls_score"),
        "detections": set_value("nms_threshold", 0.1),
    },
    "keypoint_rcnn": {
        "proposals": set_value("proposal_generator.nms_threshold", 0.3),
        "keypoint_head": flip("roi_heads.keypoint_head.score_lowres"),
    },
    "panoptic_fpn": {
        "box_inference": set_value("roi_heads.box_predictor.nms_threshold", 0.1),
        "sem_seg_head": swap_channels("sem_seg_head.predictor"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_faults_are_named_in_compiled_code(name: str, tmp_path: Path) -> None:
    faults = COMPILED[name]
    found = diagnose_planted(name, together(*faults.values()), "aot_inductor", tmp_path)
    assert sorted(diverging(found)) == sorted(faults)


@pytest.fixture
def needs_bf16(tiny_openvino: Path) -> None:
    try:
        targets()["openvino_bf16"].runtime.build().open(tiny_openvino)
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("needs_bf16")
@pytest.mark.parametrize("name", ["mask_rcnn", "keypoint_rcnn", "torchvision_fcos"])
def test_rounding_to_bf16_is_no_divergence(name: str, tmp_path: Path) -> None:
    model = trained_model(name)
    artifact_dir = write(model, "openvino", tmp_path)
    found = diagnose(model, artifact_dir, picture(), target="openvino_bf16")
    assert found.sentence == NOTHING
    assert found.precision == "bf16"


@pytest.mark.slow
@pytest.mark.usefixtures("needs_bf16")
def test_faults_are_larger_than_a_rounding_to_bf16(tmp_path: Path) -> None:
    fault = together(
        set_value("backbone.bottom_up.stem.conv1.padding_mode", "reflect"),
        swap_channels("backbone.fpn_output2"),
        set_value("proposal_generator.nms_threshold", 0.3),
        set_value("roi_heads.mask_pooler.sampling_ratio", 1),
    )
    found = diagnose_planted("mask_rcnn", fault, "openvino", tmp_path, target="openvino_bf16")
    assert diverging(found) == ["stem", "p2", "proposals", "mask_pooled"]


@pytest.mark.slow
def test_of_an_int8_artifact_the_source_is_diagnosed_and_the_quantization_named(tmp_path: Path) -> None:
    model = trained_model("faster_rcnn")
    found = diagnose(model, write(model, "onnx_int8", tmp_path), picture())
    assert found.first is None
    assert not found.artifact.passed
    assert "the quantization itself, onnx_int8" in found.sentence
    assert any("in float32" in note for note in found.notes)
