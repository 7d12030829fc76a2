"""Methods that detectron2 documents for overriding: eager models call them, graphs refuse what they omit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.errors import ConfigError, ExportError
from detexport.export import TracingAdapter
from detexport.modeling import (
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    StandardROIHeads,
    build_model,
)
from detexport.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detexport.structures import Boxes, ImageList, Instances
from small_architectures import draw, small_cfg

IMAGE = draw(64, 96, 1)
HEADS = ["faster_rcnn", "mask_rcnn", "mask_rcnn_c4", "cascade_rcnn"]


class HalfProbabilities(FastRCNNOutputLayers):
    def predict_probs(self, predictions: Any, proposals: Any) -> list[Tensor]:
        return [scores / 2 for scores in super().predict_probs(predictions, proposals)]


class ShiftedBoxes(FastRCNNOutputLayers):
    def predict_boxes(self, predictions: Any, proposals: Any) -> list[Tensor]:
        return [
            torch.zeros_like(boxes) + 8.0 * (torch.arange(boxes.shape[1]) % 4)
            for boxes in super().predict_boxes(predictions, proposals)
        ]


class Numbered(FastRCNNOutputLayers):
    """Adds a field to the detections."""

    def inference(self, predictions: Any, proposals: Any) -> Any:
        found, kept = super().inference(predictions, proposals)
        for one, rows in zip(found, kept, strict=True):
            one.proposal = rows
        return found, kept


@META_ARCH_REGISTRY.register()
class DarkRCNN(GeneralizedRCNN):
    def preprocess_image(self, batched_inputs: Any) -> ImageList:
        images = super().preprocess_image(batched_inputs)
        return ImageList(torch.zeros_like(images.tensor), images.image_sizes)


@META_ARCH_REGISTRY.register()
class SilentRCNN(GeneralizedRCNN):
    def inference(self, *args: Any, **options: Any) -> Any:
        return []


@ROI_HEADS_REGISTRY.register()
class FirstBoxes(StandardROIHeads):
    def _forward_box(self, features: Any, proposals: Any) -> Any:
        if self.training:
            return {name: 0 * loss for name, loss in super()._forward_box(features, proposals).items()}
        return [one[:1] for one in super()._forward_box(features, proposals)]


@ROI_HEADS_REGISTRY.register()
class NoMasks(StandardROIHeads):
    def _forward_mask(self, features: Any, instances: Any) -> Any:
        return {} if self.training else instances


def seeded(name: str, change: Callable[[Any], None] = lambda model: None, **overrides: str) -> Any:
    cfg: CfgNode = small_cfg(name)
    cfg.merge_from_list(
        [part for key, value in overrides.items() for part in (key.replace("__", "."), value)]
    )
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for predictor in predictors_of(model):
        nn.init.normal_(predictor.cls_score.weight, std=0.5)
        predictor.score_threshold = 0.0
    change(model)
    return model


def predictors_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FastRCNNOutputLayers)]


def of_class(kind: type) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for predictor in predictors_of(model):
            predictor.__class__ = kind

    return change


@torch.no_grad()
def detections(model: Any) -> Instances:
    (found,) = model.inference([{"image": IMAGE}], do_postprocess=False)
    assert len(found) > 0
    return found


def assert_graphs_refuse(model: Any, message: str) -> None:
    for graph in (lambda: model.image_graph(("scores",)), model.batch_graph):
        with pytest.raises(ExportError, match=message):
            graph()


@pytest.mark.parametrize("name", HEADS)
def test_scores_of_an_overridden_predict_probs(name: str) -> None:
    model = seeded(name, of_class(HalfProbabilities))
    torch.testing.assert_close(detections(model).scores, detections(seeded(name)).scores / 2)
    assert_graphs_refuse(model, r"HalfProbabilities\.predict_probs.*write HalfProbabilities\.probabilities")


@pytest.mark.parametrize("name", HEADS)
def test_boxes_of_an_overridden_predict_boxes(name: str) -> None:
    model = seeded(name, of_class(ShiftedBoxes))
    assert detections(model).pred_boxes.tensor.unique(dim=0).tolist() == [[0, 8, 16, 24]]
    assert_graphs_refuse(model, r"ShiftedBoxes\.predict_boxes.*no decode of its own")


@pytest.mark.parametrize("name", ["mask_rcnn", "mask_rcnn_c4"])
def test_fields_of_an_overridden_inference(name: str) -> None:
    model = seeded(name, of_class(Numbered))
    found = detections(model)
    assert {"proposal", "pred_masks"} <= found.get_fields().keys()
    expected = detections(seeded(name))
    for field, value in expected.get_fields().items():
        assert torch.equal(
            getattr(value, "tensor", value), getattr(found.get(field), "tensor", found.get(field))
        )
    assert_graphs_refuse(model, r"Numbered\.inference.*TracingAdapter")


def test_an_overridden_method_is_recorded_by_a_tracing_adapter() -> None:
    model = seeded("faster_rcnn", of_class(HalfProbabilities))
    with torch.no_grad():
        adapter = TracingAdapter(model, [{"image": IMAGE}])
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        other = draw(96, 64, 3)
        (found,) = adapter.outputs_schema(traced(other))
        (expected,) = model.inference([{"image": other}], do_postprocess=False)
    assert torch.equal(found.scores, expected.scores)


def test_a_tensor_counterpart_goes_into_graphs() -> None:
    class Both(HalfProbabilities):
        def probabilities(self, logits: Tensor) -> Tensor:
            return super().probabilities(logits) / 2

    model = seeded("faster_rcnn", of_class(Both))
    with torch.no_grad():
        (scores,) = model.image_graph(("scores",))(IMAGE)
    assert torch.equal(scores, detections(model).scores)


def test_a_predictor_of_documented_methods_alone() -> None:
    class Predictor(nn.Module):
        def __init__(self, layers: FastRCNNOutputLayers) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Any:
            return self.layers(x)

        def inference(self, predictions: Any, proposals: Any) -> Any:
            return self.layers.inference(predictions, proposals)

    model = seeded("faster_rcnn")
    expected = detections(model)
    model.roi_heads.box_predictor = Predictor(model.roi_heads.box_predictor)
    assert torch.equal(detections(model).scores, expected.scores)
    assert_graphs_refuse(model, r"Predictor\.inference.*no detect of its own")


def test_overridden_steps_of_the_heads() -> None:
    model = seeded("mask_rcnn", MODEL__ROI_HEADS__NAME="FirstBoxes")
    assert len(detections(model)) == 1
    assert detections(model).has("pred_masks")
    assert_graphs_refuse(model, r"FirstBoxes\._forward_box.*no detect_boxes of its own")
    plain = seeded("mask_rcnn", MODEL__ROI_HEADS__NAME="NoMasks")
    assert not detections(plain).has("pred_masks")
    assert_graphs_refuse(plain, r"NoMasks\._forward_mask.*no add_masks of its own")


def test_overridden_losses_of_the_heads() -> None:
    model = seeded("mask_rcnn", MODEL__ROI_HEADS__NAME="FirstBoxes").train()
    truth = Instances((64, 96), gt_boxes=Boxes([[8.0, 8, 40, 40]]), gt_classes=torch.tensor([1]))
    model.roi_heads.mask_head = None
    losses = model([{"image": IMAGE, "instances": truth}])
    assert losses["loss_cls"] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DarkRCNN", r"DarkRCNN\.preprocess_image.*no normalize of its own"),
        ("SilentRCNN", r"SilentRCNN\.inference.*no detect of its own"),
    ],
)
def test_overridden_methods_of_the_model(name: str, message: str) -> None:
    assert_graphs_refuse(seeded("faster_rcnn", MODEL__META_ARCHITECTURE=name), message)


class Doubling(Box2BoxTransform):
    """Boxes of twice the size."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        return 2 * super().apply_deltas(deltas, boxes)


WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_a_predictor_decodes_by_its_own_transform() -> None:
    deltas, boxes = torch.randn(3, 8), torch.tensor([[0.0, 0, 10, 20]] * 3)
    plain, own = (
        FastRCNNOutputLayers(8, box2box_transform=kind(WEIGHTS), num_classes=2)
        for kind in (Box2BoxTransform, Doubling)
    )
    assert torch.equal(own.decode(deltas, boxes), 2 * plain.decode(deltas, boxes))


@pytest.mark.parametrize(
    "transform", [Box2BoxTransformLinear(), Doubling(WEIGHTS), Box2BoxTransform(WEIGHTS, -0.5)]
)
@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_a_model_decodes_by_its_own_transform_in_a_trace_too(name: str, transform: Any) -> None:
    model = rebuilt(name, transform)
    names = ("pred_boxes", "scores")
    with torch.no_grad():
        found = detections(model)
        graph = model.image_graph(names)
        traced = torch.jit.trace(graph, draw(64, 64, 2), check_trace=False)(IMAGE)
    assert torch.equal(traced[0], found.pred_boxes.tensor)
    other = detections(rebuilt(name, Box2BoxTransform(WEIGHTS)))
    assert len(other) != len(found) or not torch.equal(other.pred_boxes.tensor, found.pred_boxes.tensor)
    with pytest.raises(
        ConfigError, match=f"apply_deltas of {type(transform).__name__}.*remedy: export by tracing"
    ):
        model.batch_graph()


def rebuilt(name: str, transform: Any) -> Any:
    """A model as if it had been constructed with this transform."""
    from detexport.modeling.box_regression import decoding_weights

    model = seeded(name)
    for module in model.modules():
        if hasattr(module, "box2box_transform"):
            module.box2box_transform, module.box_weights = transform, decoding_weights(transform)
    if name == "retinanet":
        nn.init.normal_(model.head.cls_score.weight, std=0.5)
    return model


def test_proposals_are_decoded_by_the_rpns_own_transform() -> None:
    plain, own = (rebuilt("faster_rcnn", kind(WEIGHTS)) for kind in (Box2BoxTransform, Doubling))
    with torch.no_grad():
        images = plain.preprocess_image([{"image": IMAGE}])
        features = plain.backbone(images.tensor)
        expected, found = (model.proposal_generator(images, features)[0][0] for model in (plain, own))
    assert found.proposal_boxes.area().max() > expected.proposal_boxes.area().max()


def test_documented_attributes_are_those_that_the_model_reads() -> None:
    model = seeded("mask_rcnn")
    predictor, heads, rpn = model.roi_heads.box_predictor, model.roi_heads, model.proposal_generator
    predictor.test_topk_per_image = 3
    assert len(detections(model)) == 3
    predictor.test_score_thresh, predictor.test_nms_thresh, rpn.nms_thresh = 1.0, 0.4, 0.3
    assert (predictor.score_threshold, predictor.nms_threshold, rpn.nms_threshold) == (1.0, 0.4, 0.3)
    assert heads.box_in_features == heads.mask_in_features == ["p2", "p3", "p4", "p5"]
    torch.jit.script(model.batch_graph())


def test_documented_attributes_of_a_retinanet() -> None:
    model = seeded("retinanet")
    model.test_score_thresh, model.max_detections_per_image, model.test_topk_candidates = 0.0, 2, 5
    assert len(detections(model)) == 2
    assert (model.topk_candidates, model.test_nms_thresh) == (5, model.nms_threshold)
    assert model.head_in_features == model.in_features
