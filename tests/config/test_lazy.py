"""LazyConfig and instantiate: calls that are written down, and what a file may name."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detexport.config import LazyCall, LazyConfig, instantiate
from detexport.config.cfg import LAZY, get_cfg, load_cfg
from detexport.config.lazy import allow_project, is_lazy, override_lazy, resolve
from detexport.errors import ConfigError, OutOfMemoryError
from detexport.layers import ShapeSpec
from detexport.layers.norm import LayerNorm
from detexport.modeling import GeneralizedRCNN, ResNet, build_model
from detexport.modeling.backbone import BasicStem, BottleneckBlock
from detexport.modeling.matcher import Matcher

MODEL = """
model:
  _target_: detectron2.modeling.SemanticSegmentor
  backbone:
    _target_: detectron2.modeling.FPN
    bottom_up:
      _target_: detectron2.modeling.ResNet
      stem: {_target_: detectron2.modeling.backbone.BasicStem, out_channels: 8, norm: FrozenBN}
      stages:
      - _target_: detectron2.modeling.ResNet.make_stage
        block_class: !!python/name:detectron2.modeling.backbone.resnet.BottleneckBlock ''
        num_blocks: 1
        in_channels: ${...stem.out_channels}
        out_channels: 16
        bottleneck_channels: 4
      out_features: [res2]
    in_features: ${.bottom_up.out_features}
    out_channels: 8
  sem_seg_head:
    _target_: detectron2.modeling.meta_arch.semantic_seg.SemSegFPNHead
    input_shape:
      p2: !!python/object:detectron2.layers.shape_spec.ShapeSpec
        {channels: 8, height: null, stride: 4, width: null}
    num_classes: 3
    ignore_value: 255
    loss_weight: 1.0
    conv_dims: 8
    common_stride: 4
    norm: ""
  pixel_mean: [103.5, 116.3, 123.7]
  pixel_std: [1.0, 1.0, 1.0]
dataloader:
  test:
    mapper:
      augmentations:
      - {_target_: detectron2.data.transforms.ResizeShortestEdge, short_edge_length: 64, max_size: 96}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    return path


def built(path: Path) -> Any:
    cfg = load_cfg(path)
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def record(**arguments: Any) -> dict[str, Any]:
    return arguments


def linear() -> Any:
    return LazyCall(nn.Linear)(in_features=2, out_features="${.in_features}", bias=False)


def test_a_call_is_made_later() -> None:
    node = linear()
    node.in_features = 5
    layer = instantiate(node)
    assert isinstance(layer, nn.Linear)
    assert layer.weight.shape == (5, 5)
    assert layer.bias is None
    with pytest.raises(TypeError, match="got 3"):
        LazyCall(3)  # type: ignore[arg-type]


def test_inner_calls_come_first_and_other_values_stay() -> None:
    node = LazyCall(record)(
        layers=[linear()], names={"a": linear(), "b": (1, 2)}, shape=ShapeSpec(channels=3)
    )
    found = instantiate(node)
    assert isinstance(found["layers"][0], nn.Linear)
    assert isinstance(found["names"]["a"], nn.Linear)
    assert found["names"]["b"] == [1, 2]
    assert found["shape"] == ShapeSpec(channels=3)
    unopened = LazyCall(record)(inner=linear(), _recursive_=False)
    assert not isinstance(instantiate(unopened)["inner"], nn.Module)
    assert instantiate("a value") == "a value"
    assert [type(one) for one in instantiate([linear(), 3])] == [nn.Linear, int]


def test_a_file_is_loaded_without_building_anything(file: Path) -> None:
    cfg = LazyConfig.load(file)
    assert cfg.model.backbone.bottom_up.stages[0].in_channels == 8
    model = instantiate(cfg.model).eval()
    assert isinstance(model.backbone.bottom_up, ResNet)
    assert isinstance(model.backbone.bottom_up.res2[0], BottleneckBlock)
    assert model([{"image": torch.zeros(3, 32, 32)}])[0]["sem_seg"].shape == (3, 32, 32)
    assert LazyConfig.load(file, "model") == cfg.model
    assert LazyConfig.load(file, ["model", "dataloader"]) == (cfg.model, cfg.dataloader)
    with pytest.raises(ConfigError, match="optimizer"):
        LazyConfig.load(file, "optimizer")


def test_a_path_relative_to_the_caller() -> None:
    with pytest.raises(ConfigError, match=str(Path(__file__).parent / "absent.yaml")):
        LazyConfig.load_rel("absent.yaml")


def test_what_is_saved_can_be_loaded(tmp_path: Path) -> None:
    node = LazyCall(BasicStem)(norm=functools.partial(LayerNorm, eps=1e-3), out_channels=4)
    matcher = LazyCall(Matcher)(thresholds=[0.5], labels=[0, 1])
    cfg = LazyCall(record)(
        stem=node, matcher=matcher, kind=BottleneckBlock, shape=ShapeSpec(channels=3, height=7)
    )
    LazyConfig.save(cfg, tmp_path / "saved.yaml")
    loaded = LazyConfig.load(tmp_path / "saved.yaml")
    assert loaded.stem._target_ == "detectron2.modeling.backbone.BasicStem"
    stem = instantiate(loaded.stem)
    assert isinstance(stem.conv1.norm, LayerNorm)
    assert stem.conv1.norm.eps == 1e-3
    assert instantiate(loaded.matcher) == instantiate(matcher)
    assert instantiate(loaded.kind) is BottleneckBlock
    assert instantiate(loaded.shape) == ShapeSpec(channels=3, height=7)
    with pytest.raises(ConfigError, match=r"cfg\.x cannot be written"):
        LazyConfig.save(LazyCall(record)(x=object()), tmp_path / "bad.yaml")


def test_overrides(file: Path) -> None:
    cfg = LazyConfig.load(file)
    overrides = ["model.sem_seg_head.num_classes=5", "+train.amp={enabled: true}", "~dataloader"]
    assert LazyConfig.apply_overrides(cfg, overrides) is cfg
    assert cfg.model.sem_seg_head.num_classes == 5
    assert cfg.train.amp.enabled is True
    assert "dataloader" not in cfg
    for wrong in ("model.absent=1", "absent.x=1", "model", "~model=1", "=1"):
        with pytest.raises(ConfigError):
            LazyConfig.apply_overrides(cfg, [wrong])


def test_lines_for_reading() -> None:
    text = LazyConfig.to_py(LazyCall(record)(layer=linear(), n=1))
    assert "torch.nn.modules.linear.Linear(in_features=2, out_features='${.in_features}', bias=False)" in text
    assert "n=1" in text


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.nn.functional.torch.load",
        "detectron2.layers.nms.torch.load",
        "detectron2.modeling.registries.importlib.import_module",
        "detectron2.modeling.build_model",
        "detectron2.checkpoint.DetectionCheckpointer",
        "detectron2.utils.file_io.PathManager",
        "detectron2.evaluation.COCOEvaluator",
        "detectron2.data.build_detection_test_loader",
        "detexport.system.child_process.call_in_child",
        "detectron2.modeling.ViT.__init__.__globals__",
        "detectron2.modeling",
        "detectron2",
        "",
        "...",
    ],
)
def test_a_file_cannot_name_anything_else(path: str) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        resolve(path)
    with pytest.raises(ConfigError, match="not allowed"):
        instantiate({"_target_": path})


def test_what_a_file_may_name() -> None:
    assert resolve("detectron2.modeling.meta_arch.GeneralizedRCNN") is GeneralizedRCNN
    assert resolve("detexport.modeling.meta_arch.rcnn.GeneralizedRCNN") is GeneralizedRCNN
    assert resolve("detectron2.modeling.ResNet.make_default_stages") is ResNet.make_default_stages
    assert resolve("torch.nn.modules.normalization.LayerNorm") is nn.LayerNorm
    assert resolve("torch.optim.SGD") is torch.optim.SGD
    assert resolve("detectron2.data.transforms.ResizeShortestEdge").__name__ == "ResizeShortestEdge"


def test_a_project_that_was_imported_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detexport.config.lazy._projects", set())
    with pytest.raises(ConfigError, match="--with"):
        resolve("textwrap.dedent")
    allow_project("textwrap")
    assert resolve("textwrap.dedent")("  a") == "a"


def test_what_a_project_only_imports_may_not_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detexport.config.lazy._projects", {"shutil"})
    assert resolve("shutil.copyfile")
    for path in ("shutil.fnmatch.fnmatch", "shutil.os.system", "shutil.sys"):
        with pytest.raises(ConfigError, match="not allowed"):
            resolve(path)
    # A class of another package here, which a module of the allowed ones imports.
    with pytest.raises(ConfigError, match="not allowed"):
        resolve("detectron2.modeling.meta_arch.rcnn.CfgNode")


HOSTILE = {
    "lists that double": (
        "model: {_target_: torch.nn.Sequential, _args_: '${model.x0}', "
        + ", ".join(f"x{i}: ['${{model.x{i + 1}}}', '${{model.x{i + 1}}}']" for i in range(30))
        + ", x30: 1}",
        "a lazy configuration is too large",
    ),
    "a cycle": (
        "model: {_target_: torch.nn.Identity, a: ['${model.b}'], b: ['${model.a}']}",
        "cannot be resolved; got: .*(itself|not found|detected)",
    ),
    "an endless backbone": (
        "model: {_target_: detectron2.modeling.ViT, depth: 1000000000}",
        "depth: 1000000000; expected: an integer from -1 to 1000",
    ),
    "a huge number": (
        "model: {_target_: torch.nn.Linear, in_features: 1" + "0" * 400 + ", out_features: 1}",
        "in_features: .*expected: a number from -1e.09",
    ),
    "a negative size": (
        "model: {_target_: torch.nn.Linear, in_features: -1, out_features: 1}",
        "Linear refuses its arguments; got: RuntimeError: .*negative",
    ),
    "a division by zero": (
        "model: {_target_: detectron2.modeling.ViT, depth: 1, num_heads: 0}",
        "ViT refuses its arguments; got: ZeroDivisionError",
    ),
    "a text for a number": (
        "model: {_target_: torch.nn.Linear, in_features: '3', out_features: 1}",
        "Linear refuses its arguments; got: TypeError",
    ),
    "a list as a target": ("model: {_target_: [1, 2]}", "neither a class nor a function"),
    "a target by reference": ("t: os.system\nmodel: {_target_: '${t}'}", "not allowed; got: 'os.system'"),
    "arguments that are none": ("model: {_target_: torch.nn.Linear, _args_: 5}", "_args_ .* is no list"),
    "an argument that is missing": (
        "model: {_target_: torch.nn.Linear, in_features: '???', out_features: 1}",
        "cannot be resolved",
    ),
    "the environment": (
        "model: {_target_: torch.nn.Linear, in_features: 1, out_features: '${oc.env:HOME}'}",
        "more than one reference to a key",
    ),
    "deep lists": (f"model: {{_target_: torch.nn.Linear, in_features: {'[' * 60}{']' * 60}}}", "50 levels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        built(path)
    assert len(str(raised.value).splitlines()) == 1


def test_too_many_parameters_name_the_largest_number(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: {_target_: torch.nn.Linear, in_features: 900000000, out_features: 800000000}")
    with pytest.raises(OutOfMemoryError, match=r"got: model\.in_features: 900000000"):
        built(path)


def test_errors_of_a_node() -> None:
    with pytest.raises(ConfigError, match="do not fit Linear"):
        instantiate(LazyCall(nn.Linear)(in_features=2, wrong=3))
    with pytest.raises(ConfigError, match="cannot be resolved"):
        instantiate(LazyCall(nn.Linear)(in_features="${.absent}", out_features=3))
    with pytest.raises(ConfigError, match="neither a class nor a function"):
        instantiate({"_target_": 3})


def test_a_lazy_file_is_the_configuration_of_a_model(file: Path, tmp_path: Path) -> None:
    assert is_lazy(file)
    cfg = load_cfg(file)
    override_lazy(cfg, [("model.sem_seg_head.num_classes", 4)])
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert model.num_classes == 4
    assert (model.resize.min_size, model.resize.max_size) == (64, 96)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert not is_lazy(tmp_path / "config.yaml")
    again = load_cfg(tmp_path / "config.yaml")
    assert again == cfg
    assert LAZY not in get_cfg()


def test_the_model_may_refer_to_other_keys(file: Path) -> None:
    text = MODEL.replace("num_classes: 3", "num_classes: ${constants.classes}")
    file.write_text(f"{text}constants: {{classes: '${{all.count}}'}}\nall: {{count: 6}}\nunused: 1\n")
    assert built(file).num_classes == 6
    assert "unused" not in load_cfg(file)[LAZY]


def test_a_node_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: {_target_: torch.nn.Identity}\n")
    with pytest.raises(ConfigError, match="not a meta architecture"):
        built(path)
