"""Common lazy configurations of models: they are built, and other files change them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from detexport import model_zoo
from detexport.config import LazyConfig, instantiate
from detexport.errors import CheckpointError, ConfigError
from detexport.modeling import build_model

PUBLISHED = {
    "cascade_rcnn": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
    "keypoint_rcnn_fpn": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x.yaml",
    "mask_rcnn_c4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x.yaml",
    "mask_rcnn_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "panoptic_fpn": "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_3x.yaml",
}
"""The same models as configurations of keys."""


def common(name: str) -> Any:
    return model_zoo.get_config(f"common/models/{name}.py").model


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_the_model_of_the_published_configuration(name: str) -> None:
    cfg = model_zoo.get_config(PUBLISHED[name])
    cfg.MODEL.DEVICE = "cpu"
    model, expected = instantiate(common(name)), build_model(cfg)
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    # Also the anchors and the normalization of images, which no checkpoint has.
    buffers = dict(model.named_buffers())
    for key, value in expected.named_buffers():
        if key not in shapes:
            torch.testing.assert_close(buffers[key], value)
    assert model.contract(()) == expected.contract(())
    options = ("box_weights", "nms_threshold", "pre_nms_topk_test", "post_nms_topk_test", "topk_candidates")
    modules = dict(model.named_modules())
    for path, module in expected.named_modules():
        for option in options:
            if hasattr(module, option):
                assert getattr(modules[path], option) == getattr(module, option), (path, option)


def test_vitdet_and_fcos_have_the_parameters_of_the_papers() -> None:
    with torch.device("meta"):
        vitdet, fcos = (instantiate(common(name)) for name in ("mask_rcnn_vitdet", "fcos"))
    # 111M (Li et al. 2022, table 2), 32.3M with ResNet-50, of which batch normalizations are buffers.
    assert sum(one.numel() for one in vitdet.parameters()) / 1e6 == pytest.approx(111, abs=0.5)
    assert sum(one.numel() for one in fcos.parameters()) / 1e6 == pytest.approx(32.3, abs=0.1)
    assert fcos.test_score_thresh == 0.2
    assert [block.window_size for block in vitdet.backbone.net.blocks] == [14, 14, 0] * 4
    assert vitdet.backbone.net.blocks[0].norm1.eps == 1e-6


def test_each_call_returns_a_configuration_of_its_own(tmp_path: Path) -> None:
    cfg = model_zoo.get_config("common/models/mask_rcnn_vitdet.py")
    cfg.model.backbone.net.depth = 1
    assert common("mask_rcnn_vitdet").backbone.net.depth == 12
    LazyConfig.save(cfg, tmp_path / "saved.yaml")
    loaded = LazyConfig.load(tmp_path / "saved.yaml")
    assert loaded.model.roi_heads == cfg.model.roi_heads
    assert instantiate(loaded.model.backbone.net.norm_layer)(8).eps == 1e-6


def test_a_file_changes_one(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from detectron2 import model_zoo\n"
        "model = model_zoo.get_config('common/models/cascade_rcnn.py').model\n"
        "model.roi_heads.num_classes = 3\n"
    )
    with torch.device("meta"):
        model = instantiate(LazyConfig.load(path, trust=True).model)
    assert model.roi_heads.box_predictor[2].cls_score.out_features == 4
    assert model.roi_heads.mask_head.predictor.out_channels == 3


def test_other_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no such lazy configuration; got: 'common/train\.py'"):
        model_zoo.get_config("common/train.py")
    with pytest.raises(CheckpointError, match="no trained checkpoint"):
        model_zoo.get_config("common/models/fcos.py", trained=True)
