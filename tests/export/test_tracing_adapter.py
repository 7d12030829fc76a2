import pytest
import torch
from torch import nn

from detexport.config import get_cfg
from detexport.errors import ExportError
from detexport.export import TracingAdapter, dump_torchscript_IR
from detexport.modeling import build_model
from detexport.structures import Boxes, Instances

SMALL = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "DEVICE": "cpu",
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 8,
            "STEM_OUT_CHANNELS": 8,
            "NORM": "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 8},
        "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TEST": 50,
            "POST_NMS_TOPK_TEST": 20,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": 3,
            "SCORE_THRESH_TEST": 0.1,
        },
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 8, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NUM_CONV": 1, "CONV_DIM": 8, "POOLER_RESOLUTION": 14},
    }
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.merge_from_tree(SMALL, source="the test")
    return build_model(cfg).eval()


def image(height, width):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


def test_a_model_of_rich_inputs_traces_and_the_schema_leads_back(model):
    adapter = TracingAdapter(model, [{"image": image(64, 80)}])
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    for size in ((64, 80), (50, 97), (120, 60)):
        inputs = [{"image": image(*size)}]
        (got,) = adapter.outputs_schema(traced(inputs[0]["image"]))
        (want,) = model.inference(inputs, do_postprocess=False)
        assert len(want) > 0
        assert got.image_size == want.image_size == size
        assert torch.equal(got.pred_boxes.tensor, want.pred_boxes.tensor)
        assert torch.equal(got.pred_masks, want.pred_masks)
        assert torch.equal(got.scores, want.scores)
        assert torch.equal(got.pred_classes, want.pred_classes)


def test_a_way_to_call_the_model(model):
    def backbone_of(model, inputs):
        return model.backbone(model.preprocess_image(inputs).tensor)

    inputs = [{"image": image(64, 64)}]
    adapter = TracingAdapter(model, inputs, inference_func=backbone_of)
    features = adapter(*adapter.flattened_inputs)
    assert adapter.outputs_schema.names == ("p5", "p4", "p3", "p2", "p6")
    assert [tuple(feature.shape[-2:]) for feature in features] == [(2, 2), (4, 4), (8, 8), (16, 16), (1, 1)]


def test_inputs_that_are_no_tensors(model):
    inputs = [{"image": image(64, 64), "height": 128, "width": 128}]
    with pytest.raises(ExportError, match="int: 128"):
        TracingAdapter(model, inputs)
    adapter = TracingAdapter(model, inputs, allow_non_tensor=True)
    outputs = adapter(*adapter.flattened_inputs)
    assert adapter.inputs_schema is None
    assert adapter.outputs_schema is None
    assert len(outputs) == 5
    with pytest.raises(ExportError, match="flattened_inputs"):
        adapter(image(64, 64))


class TwoArguments(nn.Module):
    def forward(self, boxes: Boxes, scores: torch.Tensor) -> Instances:
        return Instances((10, 10), pred_boxes=boxes, scores=scores * 2)


def test_a_tuple_is_the_arguments():
    boxes, scores = torch.rand(3, 4), torch.rand(3)
    adapter = TracingAdapter(TwoArguments(), (Boxes(boxes), scores))
    traced = torch.jit.trace(adapter, adapter.flattened_inputs)
    found = adapter.outputs_schema(traced(boxes[:1], scores[:1]))
    assert torch.equal(found.pred_boxes.tensor, boxes[:1])
    assert torch.equal(found.scores, scores[:1] * 2)


class Changing(nn.Module):
    def forward(self, x: torch.Tensor):
        return [x] * len(x)


def test_outputs_of_another_make_are_refused():
    adapter = TracingAdapter(Changing(), torch.rand(2))
    adapter(torch.rand(2))
    with pytest.raises(ExportError, match="outputs differs from that of the call before"):
        adapter(torch.rand(3))


def test_the_text_of_a_scripted_module(tmp_path):
    torch.manual_seed(0)
    module = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    dump_torchscript_IR(module, tmp_path / "ir")
    assert "# the whole" in (tmp_path / "ir/model_ts_code.txt").read_text()
    assert "# 0" in (tmp_path / "ir/model_ts_IR.txt").read_text()
    assert "aten::linear" in (tmp_path / "ir/model_ts_IR_inlined.txt").read_text()

    @torch.jit.script
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    dump_torchscript_IR(twice, tmp_path / "function")
    assert "aten::mul" in (tmp_path / "function/model_ts_IR.txt").read_text()
