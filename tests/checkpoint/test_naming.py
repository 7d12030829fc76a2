"""Names of Caffe2 and torchvision backbones, and of parts of a model."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from detexport.checkpoint import load_weights, match_weights, read_state_dict
from detexport.checkpoint.load import model_shapes
from detexport.checkpoint.naming import match_names
from detexport.config import get_cfg
from detexport.config.cfg import load_cfg
from detexport.errors import CheckpointError
from detexport.modeling import build_backbone, build_model

ORACLE = os.environ.get("DETEXPORT_ORACLE")
# One of the stored cases has a backbone from a file with Caffe2's names.
CAFFE2 = Path(ORACLE).parent / "oracle_caffe2_names" if ORACLE else Path()
needs_oracle = pytest.mark.skipif(ORACLE is None, reason="DETEXPORT_ORACLE names no folder")


def backbone_cfg(depth: int, **resnets: Any) -> Any:
    cfg = get_cfg()
    tree = {"DEPTH": depth, "OUT_FEATURES": ["res2", "res3", "res4", "res5"], **resnets}
    if depth < 50:
        tree["RES2_OUT_CHANNELS"] = 64
    cfg.merge_from_tree(
        {"MODEL": {"DEVICE": "cpu", "BACKBONE": {"NAME": "build_resnet_backbone"}, "RESNETS": tree}}, "a test"
    )
    return cfg


@needs_oracle
def test_a_caffe2_backbone_computes_the_reference_features() -> None:
    cfg = load_cfg(CAFFE2 / "config.yaml")
    model = build_model(cfg).eval()
    report = load_weights(model, read_state_dict(CAFFE2 / cfg.MODEL.WEIGHTS), strict=False)
    with np.load(CAFFE2 / "bottom_up.npz") as file:
        stored = dict(file)
    with np.load(CAFFE2 / "inputs.npz") as file:
        image = torch.from_numpy(file["im0_image"])
    with torch.no_grad():
        images = model.preprocess_image([{"image": image}])
        features = model.backbone.bottom_up(images.tensor)
    np.testing.assert_array_equal(images.tensor, stored.pop("input_tensor"))
    assert features.keys() == stored.keys()
    for name, expected in stored.items():
        np.testing.assert_allclose(features[name], expected, rtol=0, atol=1e-4 * expected.std(), err_msg=name)
    # The whole backbone is loaded, and nothing else.
    names = model_shapes(model)
    bottom_up = {name for name in names if name.startswith("backbone.bottom_up.")}
    assert set(report.loaded) | set(report.folded_keys) == bottom_up
    assert set(report.folded_keys) == {name for name in bottom_up if "running" in name}
    assert set(report.missing_keys) == set(names) - bottom_up
    assert report.unexpected_keys == ()
    assert report.mismatched_keys == {}
    assert report.ignored_keys == ("conv1_w_momentum", "fc1000_b", "fc1000_w")
    assert "fills the backbone only" in report.note


@pytest.mark.parametrize(
    ("caffe2", "ours"),
    [
        ("conv1_w", "stem.conv1.weight"),
        ("res_conv1_bn_s", "stem.conv1.norm.weight"),
        ("res_conv1_bn_riv", "stem.conv1.norm.running_var"),
        ("conv1_gn_b", "stem.conv1.norm.bias"),
        ("res2_0_branch1_w", "res2.0.shortcut.weight"),
        ("res2_0_branch1_bn_b", "res2.0.shortcut.norm.bias"),
        ("res3_3_branch2a_w", "res3.3.conv1.weight"),
        ("res4_22_branch2b_bn_rm", "res4.22.conv2.norm.running_mean"),
        ("res5_2_branch2c_gn_s", "res5.2.conv3.norm.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.bottom_up."])
def test_caffe2_names(caffe2: str, ours: str, prefix: str) -> None:
    model = [f"{prefix}{ours}", f"{prefix}fpn_output2.weight"]
    found = match_names([caffe2, "fc1000_w", "pred_w"], model)
    assert found.sources == {f"{prefix}{ours}": caffe2}
    assert found.ignored == ("fc1000_w",)
    assert found.unexpected == ("pred_w",)


def to_caffe2(name: str) -> str:
    """Translate into Caffe2's names, for a bottleneck network with statistics."""
    name = name.replace("stem.conv1.norm", "res_conv1_bn").replace("stem.conv1", "conv1")
    for ours, theirs in (("shortcut", "1"), ("conv1", "2a"), ("conv2", "2b"), ("conv3", "2c")):
        if name.startswith("res") and "_conv1" not in name:
            name = name.replace(f".{ours}", f"_branch{theirs}")
    name = name.replace(".norm", "_bn")
    for ours, theirs in (("running_mean", "rm"), ("running_var", "riv"), ("bias", "b")):
        name = name.replace(f".{ours}", f"_{theirs}")
    name = name.replace(".weight", "_s" if "_bn" in name else "_w")
    return name.replace(".", "_")


@pytest.mark.parametrize("with_statistics", [True, False])
def test_a_whole_caffe2_resnext_loads(with_statistics: bool, tmp_path: Path) -> None:
    """The published file of ResNeXt-101 has statistics; those of ResNet-50 and 101 have them folded in."""
    torch.manual_seed(0)
    cfg = backbone_cfg(101, NUM_GROUPS=2, WIDTH_PER_GROUP=2, RES2_OUT_CHANNELS=8, STEM_OUT_CHANNELS=4)
    writer, reader = build_backbone(cfg), build_backbone(cfg)
    with torch.no_grad():
        for tensor in writer.state_dict().values():
            tensor.uniform_(0.5, 1.5)
    blobs = {
        to_caffe2(name): tensor.numpy()
        for name, tensor in writer.state_dict().items()
        if with_statistics or "running" not in name
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs, "weight_order": list(blobs)}, 2))
    report = load_weights(reader, read_state_dict(tmp_path / "a.pkl"))
    assert report.complete
    assert len(report.loaded) == len(blobs)
    for name, tensor in writer.state_dict().items():
        if with_statistics or "running" not in name:
            assert torch.equal(reader.state_dict()[name], tensor), name
    mean, variance = (reader.state_dict()[f"stem.conv1.norm.running_{what}"] for what in ("mean", "var"))
    if not with_statistics:
        assert set(report.folded_keys) == {name for name in model_shapes(reader) if "running" in name}
        assert mean.eq(0).all()
        assert variance.eq(1).all()


def test_the_last_stage_belongs_to_the_heads_in_a_c4_model() -> None:
    model = ["backbone.res4.0.conv1.weight", "roi_heads.res5.0.conv1.weight", "roi_heads.box_predictor.bias"]
    found = match_names(["res4_0_branch2a_w", "res5_0_branch2a_w"], model)
    assert found.sources == {model[0]: "res4_0_branch2a_w", model[1]: "res5_0_branch2a_w"}


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_weights_compute_the_same_features(depth: int) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    state = {name: _lively(name, tensor) for name, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours = build_backbone(backbone_cfg(depth, STRIDE_IN_1X1=False)).eval()
    report = load_weights(ours, state)
    assert report.complete
    assert report.folded_keys == ()
    assert "RGB" in report.note
    assert {"fc.weight", "fc.bias", "bn1.num_batches_tracked"} <= set(report.ignored_keys)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        expected = {f"res{k + 1}": (x := getattr(theirs, f"layer{k}")(x)) for k in range(1, 5)}
        actual = ours(image)
    for name, feature in expected.items():
        torch.testing.assert_close(actual[name], feature, rtol=0, atol=1e-4 * float(feature.std()))


def _lively(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("running_var"):
        return torch.rand_like(tensor) + 0.5
    return torch.randn_like(tensor) * 0.1 if "running" in name else tensor


def test_a_part_of_a_model_is_loaded() -> None:
    shapes = {"backbone.bottom_up.stem.conv1.weight": [1], "backbone.fpn.weight": [1], "head.weight": [1]}
    part = {"stem.conv1.weight": torch.ones(1), "stem.fc.weight": torch.ones(9), "stem.other": torch.ones(1)}
    fitting, report = match_weights(part, shapes)
    assert list(fitting) == ["backbone.bottom_up.stem.conv1.weight"]
    assert report.missing_keys == ("backbone.fpn.weight", "head.weight")
    assert report.unexpected_keys == ("stem.other",)
    assert report.ignored_keys == ("stem.fc.weight",)


def test_the_longest_suffix_wins() -> None:
    model = ["a.stem.conv1.weight", "a.res2.conv1.weight", "b.weight"]
    found = match_names(["stem.conv1.weight", "res2.conv1.weight"], model)
    assert found.sources == {model[0]: "stem.conv1.weight", model[1]: "res2.conv1.weight"}
    found = match_names(["conv1.weight", "stem.conv1.weight"], model[:2])
    assert found.sources == {model[0]: "stem.conv1.weight", model[1]: "conv1.weight"}
    # A suffix begins at a dot.
    assert match_names(["eight", "v1.weight"], model).sources == {}


def test_a_name_that_matches_several_names_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"several names.*conv\.weight for a\.conv\.weight and b\.conv"):
        match_names(["conv.weight"], ["a.conv.weight", "b.conv.weight"])
    with pytest.raises(CheckpointError, match="conv1_w and res_conv1_w"):
        match_names(["conv1_w", "res_conv1_w"], ["stem.conv1.weight"])


def test_a_shared_name_requires_exact_matches() -> None:
    found = match_names(["backbone.weight", "weight"], ["backbone.weight", "head.weight"])
    assert found.sources == {"backbone.weight": "backbone.weight"}
    assert found.unexpected == ("weight",)


def test_the_prefix_of_a_data_parallel_wrapper_is_removed() -> None:
    found = match_names(["module.a.weight", "module.pixel_mean"], ["a.weight"])
    assert found.sources == {"a.weight": "module.a.weight"}
    assert found.ignored == ("module.pixel_mean",)
    assert match_names(["module.a", "b"], ["a", "b"]).unexpected == ("module.a",)
    assert match_names(["module.a"], ["module.a"]).sources == {"module.a": "module.a"}
