"""DeepLab: configuration keys, dilations, windows of ASPP, the loss, and graphs at every size."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from detexport.config.cfg import CfgNode, get_cfg, load_cfg
from detexport.errors import ConfigError
from detexport.modeling import build_backbone, build_model
from detexport.modeling.deeplab.loss import DeepLabCE, deeplab_loss
from detexport.projects.deeplab import add_deeplab_config

SMALL: list[Any] = [
    "MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "SemanticSegmentor",
    "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone", "MODEL.BACKBONE.FREEZE_AT", 0,
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"], "MODEL.RESNETS.RES5_DILATION", 2,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3PlusHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res5"],
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16,
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", 16, "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8],
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", [1, 2, 3], "MODEL.SEM_SEG_HEAD.NORM", "BN",
]  # fmt: skip
V3: list[Any] = [
    "MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3Head", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res5"],
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 16,
]  # fmt: skip
CROP: list[Any] = [
    "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [64, 96],
]  # fmt: skip


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    add_deeplab_config(cfg)
    cfg.merge_from_list([*SMALL, *overrides])
    return cfg


def images(*sizes: tuple[int, int]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.randint(0, 255, (3, *size), generator=generator)} for size in sizes]


def test_a_file_that_uses_a_project_has_its_keys_and_others_have_not(tmp_path: Path) -> None:
    assert "ASPP_DILATIONS" not in get_cfg().MODEL.SEM_SEG_HEAD
    for text in ("MODEL: {SEM_SEG_HEAD: {NAME: DeepLabV3Head}}", "MODEL: {RESNETS: {RES4_DILATION: 2}}"):
        (tmp_path / "c.yaml").write_text(text)
        cfg = load_cfg(tmp_path / "c.yaml")
        assert cfg.MODEL.SEM_SEG_HEAD.ASPP_DILATIONS == [6, 12, 18]
        assert "INS_EMBED_HEAD" not in cfg.MODEL
    (tmp_path / "c.yaml").write_text("MODEL: {PANOPTIC_DEEPLAB: {NMS_KERNEL: 41}}")
    cfg = load_cfg(tmp_path / "c.yaml")
    assert (cfg.MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL, cfg.MODEL.RESNETS.STEM_TYPE) == (41, "deeplab")
    (tmp_path / "c.yaml").write_text("MODEL: {SEM_SEG_HEAD: {NAME: SemSegFPNHead}}")
    assert "ASPP_DILATIONS" not in load_cfg(tmp_path / "c.yaml").MODEL.SEM_SEG_HEAD


def test_a_module_without_its_keys_is_refused() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone"])
    message = "BACKBONE.NAME: build_resnet_deeplab_backbone without MODEL.RESNETS.RES4_DILATION"
    with pytest.raises(ConfigError, match=rf"lacks keys of deeplab; got: MODEL\.{message}"):
        build_model(cfg)


@pytest.mark.parametrize(
    ("res4", "res5", "strides", "dilations"),
    [(1, 1, (16, 32), (1, 2, 4)), (1, 2, (16, 16), (2, 4, 8)), (2, 4, (8, 8), (4, 8, 16))],
)
def test_dilations_replace_strides(
    res4: int, res5: int, strides: tuple[int, int], dilations: tuple[int, ...]
) -> None:
    keys = ["MODEL.RESNETS.RES4_DILATION", res4, "MODEL.RESNETS.RES5_DILATION", res5]
    backbone = build_backbone(configured(*keys, "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"]))
    assert tuple(shape.stride for shape in backbone.output_shape().values()) == strides
    assert tuple(block.conv2.dilation[0] for block in backbone.res5) == dilations
    assert {block.conv2.dilation[0] for block in backbone.res4} == {res4}
    maps = backbone(torch.zeros(1, 3, 64, 64))
    assert [maps[name].shape[-1] for name in maps] == [64 // stride for stride in strides]


@pytest.mark.parametrize(
    "overrides", [[], V3, CROP, ["MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV", True]]
)
def test_it_segments_trains_and_its_graph_takes_every_size(overrides: list[Any]) -> None:
    torch.manual_seed(0)
    model = build_model(configured(*overrides))
    batch = [example | {"sem_seg": torch.randint(0, 4, (64, 96))} for example in images((64, 96), (64, 96))]
    losses = model.train()(batch)
    losses["loss_sem_seg"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    graph = torch.jit.script(model.batch_graph())
    for size in ((64, 96), (65, 31), (1, 1)):
        example = images(size)
        with torch.no_grad():
            logits = model(example)[0]["sem_seg"]
            found = graph([example[0]["image"]])[0]["sem_seg"]
        assert logits.shape == (4, *size)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)


def test_a_window_of_the_crop_is_pooled_not_the_whole_map() -> None:
    whole, window = (build_model(configured(*keys)).eval() for keys in ([], CROP))
    window.load_state_dict(whole.state_dict())
    for size, same in (((64, 96), True), ((128, 96), False)):
        with torch.no_grad():
            outputs = [model(images(size))[0]["sem_seg"] for model in (whole, window)]
        assert torch.allclose(*outputs, atol=1e-5) == same


def test_the_hardest_pixels_count_and_ignored_ones_have_no_loss() -> None:
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4))
    target[0, 0] = 255
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten()
    hardest = losses.sort(descending=True).values[:8].mean()
    torch.testing.assert_close(DeepLabCE(255, 0.2)(logits, target), hardest)
    torch.testing.assert_close(DeepLabCE(255, 1.0)(logits, target), losses.mean())
    mean = F.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(deeplab_loss(logits, target, "cross_entropy", 255), mean)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.RESNETS.STEM_TYPE", "wide"], "unknown stem; got: MODEL.RESNETS.STEM_TYPE: 'wide'"),
        (["MODEL.RESNETS.RES4_DILATION", 2], "dilation 2 of res4, MODEL.RESNETS.RES5_DILATION: 2"),
        (["MODEL.RESNETS.RES5_MULTI_GRID", [1, 2]], r"RES5_MULTI_GRID: \[1, 2\]; expected: 3"),
        (["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "dice"], "LOSS_TYPE: 'dice'"),
        (["MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8, 8]], r"PROJECT_CHANNELS: \[8, 8\]"),
        (["MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 8], "COMMON_STRIDE: 8; expected: 4"),
        (["MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3Head"], "DeepLabV3Head has one feature map"),
        ([*CROP, "INPUT.CROP.SIZE", [60, 96]], r"INPUT.CROP.SIZE: \[60, 96\]; expected: multiples of 16"),
        ([*CROP, "INPUT.CROP.TYPE", "relative"], "INPUT.CROP.TYPE: relative; expected: absolute"),
    ],
)
def test_what_cannot_be_built_is_named(overrides: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(configured(*overrides))


def test_the_maps_follow_from_in_features_alone() -> None:
    names = ["res2", "res3", "res5"]
    keys = ["MODEL.RESNETS.OUT_FEATURES", names, "MODEL.SEM_SEG_HEAD.IN_FEATURES", names]
    with pytest.warns(UserWarning, match=r"PROJECT_FEATURES: \['res2'\] has no effect"):
        model = build_model(configured(*keys, "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", [8, 12]))
    widths = {
        name: stage.project_conv.out_channels
        for name, stage in model.sem_seg_head.decoder.named_children()
        if name != "res5"
    }
    assert widths == {"res3": 12, "res2": 8}
