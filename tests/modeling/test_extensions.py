"""Users' own modules: by registration, by dotted path, and in place of single arguments."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.config import CfgNode
from detexport.config.cfg import load_cfg
from detexport.errors import ConfigError, ExportError
from detexport.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_HEADS_REGISTRY,
    RPN_HEAD_REGISTRY,
    Backbone,
    FastRCNNOutputLayers,
    GeneralizedRCNN,
    ShapeSpec,
    StandardROIHeads,
    StandardRPNHead,
    build_backbone,
    build_model,
    build_proposal_generator,
)
from detexport.modeling.registries import Registry
from detexport.structures import Boxes, Instances

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
SMALL = ["MODEL.RESNETS.DEPTH", 18, "MODEL.MASK_ON", False]
IMAGE = torch.randint(0, 255, (3, 96, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@BACKBONE_REGISTRY.register()
class ToyBackbone(Backbone):
    def __init__(self, cfg: CfgNode, input_shape: ShapeSpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape.channels, 64, kernel_size=7, stride=16, padding=3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"conv1": self.conv1(image)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"conv1": ShapeSpec(channels=64, stride=16)}


@ROI_HEADS_REGISTRY.register()
class DoubtfulROIHeads(StandardROIHeads):
    """Gives each score half."""

    def detect_boxes(
        self,
        levels: list[Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler.pool(levels, proposals)))
        boxes, scores, classes = self.box_predictor.detect(logits, deltas, proposals[0], image_sizes[0])
        return [{"pred_boxes": boxes, "scores": scores / 2, "pred_classes": classes}]


@ROI_HEADS_REGISTRY.register()
class ROIHeadsForPeople(StandardROIHeads):
    """Changes what people see, and forgets graphs."""

    def forward(self, *args: Any) -> Any:
        return super().forward(*args)


@RPN_HEAD_REGISTRY.register()
class QuietRPNHead(StandardRPNHead):
    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden) - 5.0)
            deltas.append(self.anchor_deltas(hidden))
        return logits, deltas


@META_ARCH_REGISTRY.register()
class NamedRCNN(GeneralizedRCNN):
    """A class that inherits how a configuration is read."""


def configured(*overrides: Any) -> CfgNode:
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list([*SMALL, *overrides])
    return cfg


def seeded(cfg: CfgNode) -> Any:
    """A model whose random scores differ, all of them detections."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    model.roi_heads.box_predictor.score_threshold = 0.0
    return model


@torch.no_grad()
def check_graphs(model: Any) -> Instances:
    """Eager, trace and script agree."""
    (found,) = model.inference([{"image": IMAGE}], do_postprocess=False)
    assert len(found) > 0
    names = model.contract(tuple("abcde")).output_names
    traced = torch.jit.trace(model.image_graph(names), IMAGE, check_trace=False)(IMAGE)
    (scripted,) = torch.jit.script(model.batch_graph())([IMAGE])
    for graph in (dict(zip(names, traced, strict=True)), scripted):
        assert torch.equal(graph["pred_boxes"], found.pred_boxes.tensor)
        assert torch.equal(graph["scores"], found.scores)
    return found


TOY = [
    *("MODEL.BACKBONE.NAME", "ToyBackbone", "MODEL.ANCHOR_GENERATOR.SIZES", [[16, 32]]),
    *("MODEL.RPN.IN_FEATURES", ["conv1"], "MODEL.ROI_HEADS.IN_FEATURES", ["conv1"]),
]


def test_a_backbone_that_tells_no_shapes_is_refused() -> None:
    cfg = load_cfg(CONFIG)
    cfg.MODEL.BACKBONE.NAME = "torch.nn.Identity"
    with pytest.raises(ConfigError, match=r"'torch.nn.Identity' gives a Identity; .*output_shape"):
        build_backbone(cfg)


def test_a_backbone_by_registration() -> None:
    model = seeded(configured(*TOY))
    assert isinstance(model.backbone, ToyBackbone)
    assert model.size_divisibility == 0
    check_graphs(model)
    box = Boxes([[8.0, 8, 40, 40]])
    truth = Instances((96, 64), gt_boxes=box, gt_classes=torch.tensor([1]))
    losses = model.train()([{"image": IMAGE, "instances": truth}])
    sum(losses.values()).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


def test_heads_by_registration_go_into_the_graphs() -> None:
    plain, doubtful = (
        check_graphs(seeded(configured("MODEL.ROI_HEADS.NAME", name)))
        for name in ("StandardROIHeads", "DoubtfulROIHeads")
    )
    assert torch.equal(doubtful.scores, plain.scores / 2)


def test_an_rpn_head_and_a_meta_architecture_by_registration() -> None:
    cfg = configured("MODEL.RPN.HEAD_NAME", "QuietRPNHead", "MODEL.META_ARCHITECTURE", "NamedRCNN")
    model = seeded(cfg)
    assert type(model) is NamedRCNN
    check_graphs(model)
    proposals, _ = model.proposal_generator(
        model.preprocess_image([{"image": IMAGE}]), model.backbone(torch.zeros(1, 3, 96, 64))
    )
    assert proposals[0].objectness_logits.max() < -4


def test_single_arguments_in_place_of_the_configurations() -> None:
    class SureOutputLayers(FastRCNNOutputLayers):
        def probabilities(self, logits: Tensor) -> Tensor:
            return torch.ones_like(logits[:, :-1])

    cfg = configured()
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    predictor = SureOutputLayers(cfg, ShapeSpec(cfg.MODEL.ROI_BOX_HEAD.FC_DIM), num_classes=2)
    heads = StandardROIHeads(cfg, shapes, box_predictor=predictor, num_classes=2)
    model = GeneralizedRCNN(
        cfg,
        backbone=backbone,
        proposal_generator=build_proposal_generator(cfg, shapes),
        roi_heads=heads,
    ).eval()
    assert model.num_classes == 2
    with torch.no_grad():
        (output,) = model([{"image": IMAGE}])
    assert (output["instances"].scores == 1).all()
    assert len(output["instances"]) > 0


def test_a_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(
        "from torch import nn\n"
        "from detexport.layers import ShapeSpec\n"
        "from detexport.modeling import Backbone\n"
        "class Tiny(Backbone):\n"
        "    def __init__(self, cfg, input_shape):\n"
        "        super().__init__()\n"
        "        self.conv1 = nn.Conv2d(input_shape.channels, 64, 16, stride=16)\n"
        "        self._out_features = ['conv1']\n"
        "        self._out_feature_channels = {'conv1': 64}\n"
        "        self._out_feature_strides = {'conv1': 16}\n"
        "    def forward(self, image):\n"
        "        return {'conv1': self.conv1(image)}\n"
        "def build(cfg, input_shape):\n"
        "    return Tiny(cfg, input_shape)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for name in ("Tiny", "build"):
        model = seeded(configured(*TOY, "MODEL.BACKBONE.NAME", f"my_project.nets.{name}"))
        assert type(model.backbone).__module__ == "my_project.nets"
        check_graphs(model)
    del sys.modules["my_project.nets"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_absent_project.nets.Tiny", "No module named 'my_absent_project'"),
        ("torch.nn.Conv2dd", "has no attribute 'Conv2dd'"),
        (".Tiny", "not a dotted path"),
        ("..x", "not a dotted path"),
        ("5.x", "not a dotted path"),
        ("sys.path", "not a backbone.*'sys.path', a list"),
    ],
)
def test_a_wrong_dotted_path_is_told_with_the_key_the_file_and_the_known(
    path: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"_BASE_: {CONFIG}\nMODEL: {{BACKBONE: {{NAME: {path}}}}}")
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(load_cfg(file))
    text = str(caught.value)
    assert f"MODEL.BACKBONE.NAME: '{path}'" in text
    assert f"where: MODEL.BACKBONE.NAME in {file}" in text
    assert "expected: " in text


def test_an_unknown_name_is_told_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"_BASE_: {CONFIG}\nMODEL: {{ROI_HEADS: {{NAME: StandardROIHead}}}}")
    cfg = load_cfg(file)
    with pytest.raises(ConfigError, match="did you mean 'StandardROIHeads'") as caught:
        build_model(cfg)
    assert str(caught.value).endswith(f"where: MODEL.ROI_HEADS.NAME in {file}")
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "Mine"])
    with pytest.raises(ConfigError, match=r"where: MODEL.ROI_HEADS.NAME in the override"):
        build_model(cfg)


def test_a_graph_does_not_leave_out_what_a_user_wrote() -> None:
    model = seeded(configured("MODEL.ROI_HEADS.NAME", "ROIHeadsForPeople"))
    with torch.no_grad():
        assert len(model([{"image": IMAGE}])[0]["instances"]) > 0
    for graph in (lambda: model.image_graph(("scores",)), model.batch_graph):
        with pytest.raises(ExportError, match=r"ROIHeadsForPeople\.forward.*no detect of its own"):
            graph()
    model.roi_heads = nn.Identity()
    with pytest.raises(ExportError, match="no detect of its own"):
        model.batch_graph()


def test_registries_take_classes_and_functions() -> None:
    registry = Registry("thing", "MODEL.THING")

    @registry.register()
    def build_one() -> int:
        return 1

    registry.register(dict, name="Two")
    assert registry.get("build_one")() == 1
    assert registry.get("Two") is dict
    assert "Two" in registry
    assert [name for name, _ in registry] == ["build_one", "Two"]
    with pytest.raises(ValueError, match="'Two' is registered already"):
        registry.register(list, name="Two")
    with pytest.raises(ConfigError, match=r"unknown thing; got: MODEL\.THING: 'build_on'.*build_one"):
        registry.get("build_on")
    with pytest.raises(ConfigError, match=r"MODEL\.OTHER: 'build_on'"):
        registry.get("build_on", key="MODEL.OTHER")


def test_a_module_that_leaves_while_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("leaving", "import sys\nsys.exit(3)"), ("broken", "1 / 0"), ("wrong", "def")):
        (tmp_path / f"my_{name}_nets.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (("leaving", "SystemExit: 3"), ("broken", "ZeroDivision"), ("wrong", "SyntaxError")):
        with pytest.raises(ConfigError, match=f"cannot import a backbone.*{message}"):
            build_model(configured("MODEL.BACKBONE.NAME", f"my_{name}_nets.Tiny"))


class TakesNothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()


@pytest.mark.parametrize("name", [f"{__name__}.TakesNothing", "torch.nn.ReLU6", "os.path.isfile"])
def test_what_takes_no_configuration_is_named(name: str) -> None:
    message = "has another signature|does not report the shapes|not a backbone"
    with pytest.raises(ConfigError, match=message) as caught:
        build_model(configured("MODEL.BACKBONE.NAME", name))
    assert f"MODEL.BACKBONE.NAME: '{name}'" in str(caught.value)
