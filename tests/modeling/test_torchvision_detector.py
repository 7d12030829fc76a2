"""torchvision's detection models behind our interface: torchvision's own model is the oracle."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import detection

from detexport.checkpoint import load_weights
from detexport.checkpoint.load import match_weights, model_shapes
from detexport.config import get_cfg
from detexport.config.cfg import load_cfg
from detexport.contract import Contract, ResizeRule
from detexport.engine.training import seed_everything
from detexport.errors import CheckpointError, ConfigError
from detexport.export import Provenance
from detexport.layers import FrozenBatchNorm2d
from detexport.modeling import build_model
from detexport.modeling.torchvision import (
    TorchvisionDense,
    TorchvisionRCNN,
    TorchvisionSSD,
)
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks
from makers import maker

CONFIG = Path(__file__).parents[2] / "conf/torchvision/detector.yaml"
FAMILIES = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
]
SIZES = [(64, 96), (97, 70), (33, 130), (20, 24)]
NAMES = {
    "boxes": "pred_boxes",
    "scores": "scores",
    "labels": "pred_classes",
    "masks": "pred_masks",
    "keypoints": "pred_keypoints",
}


def new_model(name: str, **options: Any) -> Any:
    seed_everything(0)
    cfg = load_cfg(CONFIG)
    given = {"NAME": name, "NUM_CLASSES": 5, **options}
    cfg.merge_from_tree({"MODEL": {"TORCHVISION": given}}, source="the test")
    return build_model(cfg)


def draw(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(0, 90, (3, height, width), generator=generator, dtype=torch.uint8)
    image[:, height // 4 : height // 2, width // 4 : width // 2] = 220
    return image


IMAGES = [draw(*size) for size in SIZES]


@torch.no_grad()
def settle(model: Any) -> None:
    """Statistics of the images, and weights wide enough that what is found differs between places."""
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    model.detect(IMAGES)
    model.eval()
    if isinstance(model, TorchvisionRCNN):
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.05)
        nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.05)
    elif isinstance(model, TorchvisionDense):
        nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
        # A label that ours leaves out would take places in torchvision's list.
        model.head.classification_head.cls_logits.bias.view(-1, 6)[:, 0] = -1e4


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    """Each family with random weights; few detections, since the heads on them take the time."""
    model = new_model(request.param, SCORE_THRESH=0.0001, DETECTIONS_PER_IMAGE=2).eval()
    settle(model)
    return model


def oracle(model: Any, name: str) -> Any:
    """torchvision's own model with the weights of ours, on images that ours has normalized."""
    net = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=model.num_classes + 1
    ).eval()
    net.load_state_dict(model.state_dict())
    thresholds = net.roi_heads if isinstance(net, detection.FasterRCNN) else net
    thresholds.score_thresh = model.score_threshold
    thresholds.detections_per_img = model.max_detections
    net.transform.normalize = lambda image: image
    if net.transform.fixed_size is None:
        net.transform.resize = lambda image, target: (image, target)
    # Raw masks, as at the end of our graph.
    paste = net.transform.postprocess
    net.transform.postprocess = (
        paste if net.transform.fixed_size is not None else lambda found, sizes, original: found
    )
    return net


@torch.no_grad()
def test_torchvisions_own_model_finds_the_same(model: Any, request: pytest.FixtureRequest) -> None:
    net = oracle(model, request.node.callspec.params["model"])
    for image in IMAGES:
        ours = model.detect([image])[0]
        theirs = net([model.normalize(image)])[0]
        assert len(ours["scores"]) == model.max_detections
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours["pred_boxes"], theirs["boxes"], rtol=0, atol=1e-3)
        assert torch.equal(ours["pred_classes"] + 1, theirs["labels"])
        if "masks" in theirs:
            torch.testing.assert_close(ours["pred_masks"], theirs["masks"][:, 0], rtol=0, atol=1e-5)
        if "keypoints" in theirs:
            keypoints = ours["pred_keypoints"]
            torch.testing.assert_close(keypoints[..., :2], theirs["keypoints"][..., :2], rtol=0, atol=1e-2)
            assert (keypoints[..., 2] > 0).all()


@torch.no_grad()
def test_images_are_normalized_as_torchvision_does(model: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["model"]
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    expected = net.transform.normalize(IMAGES[0] / 255)
    torch.testing.assert_close(model.normalize(IMAGES[0]), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_trace_finds_the_same_at_every_size(model: Any) -> None:
    names = model.contract(tuple("abcde")).output_names
    traced = torch.jit.trace(model.image_graph(names).eval(), IMAGES[0], check_trace=False)
    for image in IMAGES[1:]:
        expected = model.detect([image])[0]
        for name, value in zip(names, traced(image), strict=True):
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_script_takes_images_of_different_sizes(model: Any) -> None:
    scripted = torch.jit.script(model.batch_graph().eval())
    for found, expected in zip(scripted(IMAGES[:2]), model.detect(IMAGES[:2]), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-3)


@torch.no_grad()
def test_instances_lie_in_the_output_that_was_asked_for(model: Any) -> None:
    inputs = [{"image": IMAGES[0], "height": 128, "width": 48}, {"image": IMAGES[1]}]
    first, second = (output["instances"] for output in model(inputs))
    assert (first.image_size, second.image_size) == ((128, 48), SIZES[1])
    raw, _ = model.inference(inputs, do_postprocess=False)
    expected = raw.pred_boxes.tensor * torch.tensor([0.5, 2.0] * 2)
    torch.testing.assert_close(first.pred_boxes.tensor, expected[raw.pred_boxes.nonempty()])
    if first.has("pred_masks"):
        assert first.pred_masks.dtype == torch.bool
        assert first.pred_masks.shape == (len(first), 128, 48)
    assert not first.has("pred_keypoints") or first.pred_keypoints.shape == (len(first), 17, 3)
    with pytest.raises(ValueError, match="got: none"):
        model([])


def ground_truth(height: int, width: int) -> Instances:
    box = torch.tensor([[width / 4, height / 4, width / 2, height / 2]])
    mask = torch.zeros(1, height, width)
    mask[:, height // 4 : height // 2, width // 4 : width // 2] = 1
    keypoints = torch.tensor([width / 3, height / 3, 2.0]).expand(1, 17, 3)
    return Instances(
        (height, width),
        gt_boxes=Boxes(box),
        gt_classes=torch.tensor([2]),
        gt_masks=BitMasks(mask),
        gt_keypoints=Keypoints(keypoints),
    )


def test_losses_are_torchvisions_and_reach_every_parameter(model: Any) -> None:
    learner = copy.deepcopy(model).train()
    inputs = [{"image": image, "instances": ground_truth(*image.shape[1:])} for image in IMAGES[:2]]
    losses = learner(inputs)
    assert (
        losses.keys()
        == learner.torchvision_losses.__self__(  # type: ignore[attr-defined]
            [image / 255 for image in IMAGES[:2]], [learner.target(x["instances"]) for x in inputs]
        ).keys()
    )
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [name for name, value in learner.named_parameters() if value.grad is None]
    assert without == []
    assert all(value.grad is None for value in model.parameters())


def test_polygons_are_drawn_for_torchvisions_mask_loss() -> None:
    model = new_model("ssdlite320_mobilenet_v3_large")
    truth = ground_truth(64, 96)
    truth.gt_masks = PolygonMasks([[np.array([24.0, 16.0, 48.0, 16.0, 48.0, 32.0, 24.0, 32.0])]])
    target = model.target(truth)
    assert torch.equal(target["masks"], ground_truth(64, 96).gt_masks.tensor.to(torch.uint8))
    assert target["labels"].tolist() == [3]


class Levels(nn.Module):
    """Five levels of strides 8 to 128, small enough to be exported in a minute."""

    out_channels = 64

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(64 if index else 3, 64, 3, 2, 1) for index in range(7))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = {}
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if index >= 2:
                levels[str(index)] = x
        return levels


@pytest.mark.slow
def test_onnx_finds_the_same_where_the_sample_had_a_level_of_one_cell(tmp_path: Path) -> None:
    seed_everything(0)
    net = detection.FCOS(Levels(), num_classes=6)
    nn.init.normal_(net.head.classification_head.cls_logits.weight, std=0.3)
    net.head.classification_head.conv = nn.Identity()
    net.head.regression_head.conv = nn.Identity()
    model = TorchvisionDense(
        net,
        num_classes=5,
        score_threshold=0.001,
        nms_threshold=0.5,
        max_detections=10,
        first_label=1,
        resize=ResizeRule(0, 0),
        size_divisibility=32,
    ).eval()
    contract, provenance = model.contract(tuple("abcde")), Provenance("w", "c")
    maker("onnx").export(
        model, draw(96, 128).numpy(), tmp_path / "onnx", contract=contract, provenance=provenance
    )
    session = OnnxRuntime().open(tmp_path / "onnx")
    for image in (draw(33, 250), draw(250, 33), *IMAGES):
        with torch.no_grad():
            expected = model.detect([image])[0]
        for name, value in session(image.numpy()).items():
            np.testing.assert_allclose(value, expected[name].numpy(), atol=1e-3)


@torch.no_grad()
def test_the_contract_says_what_the_graph_gives(model: Any) -> None:
    contract = Contract.from_json(model.contract(tuple("abcde")).to_json())
    fields = model.detect([IMAGES[0]])[0]
    for spec in contract.outputs:
        value = fields[spec.name]
        assert str(value.dtype) == f"torch.{spec.dtype}"
        sizes = [size if isinstance(size, int) else value.shape[0] for size in spec.shape]
        assert list(value.shape) == sizes
    assert contract.channel_order == "RGB"
    assert contract.max_detections == 2


@pytest.mark.parametrize(
    ("name", "family", "resize"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", TorchvisionRCNN, (320, 640)),
        ("retinanet_resnet50_fpn_v2", TorchvisionDense, (800, 1333)),
        ("ssdlite320_mobilenet_v3_large", TorchvisionSSD, (0, 0)),
    ],
)
def test_what_is_not_said_is_as_torchvision_has_it(name: str, family: type, resize: tuple[int, int]) -> None:
    model = new_model(name, NUM_CLASSES=None)
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    assert isinstance(model, family)
    assert (model.resize.min_size, model.resize.max_size) == resize
    assert model.num_classes == 90
    assert list(model.state_dict()) == list(net.state_dict())


def test_torchvisions_names_are_all_known() -> None:
    known = {name for name in dir(detection) if name in torchvision.models.list_models(module=detection)}
    assert {"fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos", "ssd300", "ssdlite320"} == {
        name.split("_")[0] for name in known
    }


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_names_of_older_files_are_read_as_torchvision_reads_them(name: str) -> None:
    model = new_model(name)
    old = {old_name(key): torch.full_like(value, index) for index, (key, value) in enumerate(named(model))}
    assert set(old) - set(model.state_dict())
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=6)
    net.load_state_dict(old, strict=False)
    expected = dict(named(net))
    load_weights(model, old)
    assert all(torch.equal(value, expected[key]) for key, value in named(model))


def named(net: nn.Module) -> list[tuple[str, Tensor]]:
    return [pair for pair in net.state_dict().items() if not pair[0].endswith("num_batches_tracked")]


def old_name(name: str) -> str:
    """A name of today as files had it before convolutions became blocks."""
    parts = name.split(".")
    if "inner_blocks" in parts or "layer_blocks" in parts:
        return ".".join([*parts[:-2], parts[-1]])
    if name.startswith("rpn.head.conv."):
        return f"rpn.head.conv.{parts[-1]}"
    if name.startswith("roi_heads.mask_head."):
        return f"roi_heads.mask_head.mask_fcn{int(parts[2]) + 1}.{parts[-1]}"
    if name.startswith("head.") and parts[2] == "conv":
        return ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
    return name


def test_another_models_weights_are_refused() -> None:
    model = new_model("ssdlite320_mobilenet_v3_large")
    weights = dict(model.state_dict())
    weights["head.extra.weight"] = weights.pop("backbone.features.0.0.0.weight")
    with pytest.raises(CheckpointError, match=r"backbone\.features\.0\.0\.0\.weight"):
        match_weights(weights, model_shapes(model))[1].raise_if_incomplete("the file")


def test_fixed_normalization_keeps_names_and_detections() -> None:
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    model = new_model(name, NORM_EPS=0.01, SCORE_THRESH=0.0001, DETECTIONS_PER_IMAGE=5).eval()
    settle(model)
    frozen = new_model(name, NORM_EPS=0.01, SCORE_THRESH=0.0001, DETECTIONS_PER_IMAGE=5, FREEZE_NORM=True)
    load_weights(frozen, model.state_dict())
    norms = [layer for layer in frozen.backbone.body.modules() if hasattr(layer, "running_var")]
    assert {(type(norm), norm.eps) for norm in norms} == {(FrozenBatchNorm2d, 0.01)}
    with torch.no_grad():
        expected, found = model.detect(IMAGES[:1])[0], frozen.eval().detect(IMAGES[:1])[0]
        torch.testing.assert_close(found["pred_boxes"], expected["pred_boxes"], rtol=0, atol=1e-2)


def test_a_first_label_of_0_keeps_every_class() -> None:
    model = new_model("retinanet_resnet50_fpn", FIRST_LABEL=0)
    assert model.num_classes == 5
    assert model.head.classification_head.num_classes == 5


def own_model(*, num_classes: int) -> nn.Module:
    """As a user would write it: a torchvision model of other layers, here a short backbone."""
    return detection.FCOS(Levels(), num_classes)


def test_a_function_of_ones_own_builds_the_model() -> None:
    model = new_model(f"{__name__}.own_model", NUM_CLASSES=3)
    assert isinstance(model, TorchvisionDense)
    assert isinstance(model.backbone, Levels)
    assert model.num_classes == 3
    with torch.no_grad():
        assert set(model.eval().detect(IMAGES[:1])[0]) == {"pred_boxes", "scores", "pred_classes"}


@pytest.mark.parametrize(
    ("options", "named_in_error"),
    [
        ({"NAME": "fasterrcnn_resnet5_fpn"}, "fasterrcnn_resnet50_fpn"),
        ({"NAME": ""}, "expected: one of fasterrcnn_mobilenet_v3_lar"),
        ({"NAME": "resnet50"}, "fcos_resnet50_fpn"),
        ({"NAME": "torchvision.models.resnet18"}, "resnet18, which returns a ResNet"),
        ({"NAME": "torchvision.models.resnet0"}, "torchvision.models.resnet0"),
        ({"NUM_CLASSES": 0}, "NUM_CLASSES: 0"),
        ({"NMS_THRESH": 2.0}, "NMS_THRESH: 2.0"),
        ({"SCORE_THRESH": "high"}, "SCORE_THRESH: 'high'"),
        ({"NUM_KEYPOINTS": 3}, "NUM_KEYPOINTS: 3"),
        ({"FIRST_LABEL": 0}, "FIRST_LABEL: 0"),
        ({"NAME": "ssdlite320_mobilenet_v3_large", "MIN_SIZE": 300}, "MIN_SIZE: 300"),
        ({"NAME": "ssdlite320_mobilenet_v3_large", "FREEZE_NORM": True}, "FREEZE_NORM: True"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options: dict[str, Any], named_in_error: str) -> None:
    with pytest.raises(ConfigError) as error:
        new_model(**{"name": options.pop("NAME", "fasterrcnn_mobilenet_v3_large_320_fpn"), **options})
    assert named_in_error in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "BGR"),
        ("INPUT.MIN_SIZE_TEST", 600),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
        ("MODEL.RPN.NMS_THRESH", 0.5),
        ("TEST.DETECTIONS_PER_IMAGE", 10),
    ],
)
def test_an_option_of_other_models_is_refused(key: str, value: Any) -> None:
    cfg = load_cfg(CONFIG)
    cfg.MODEL.TORCHVISION.NAME = FAMILIES[0]
    assert build_model(cfg).num_classes == 90
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=".".join(key.split(".")[:2])):
        build_model(cfg)


def test_the_defaults_name_no_model() -> None:
    cfg = get_cfg()
    assert cfg.MODEL.TORCHVISION.NAME == ""
