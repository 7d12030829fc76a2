"""RetinaNet's head with each kind of normalization."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.config.cfg import load_cfg
from detexport.layers import ShapeSpec
from detexport.modeling.meta_arch.retinanet import build_retinanet_head

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"


def head(norm: str) -> Any:
    torch.manual_seed(0)
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(
        ["MODEL.RETINANET.NORM", norm, "MODEL.RETINANET.NUM_CONVS", 2, "MODEL.RETINANET.NUM_CLASSES", 3]
    )
    shapes = [ShapeSpec(32, stride=8), ShapeSpec(32, stride=16)]
    return build_retinanet_head(cfg, shapes, num_anchors=2)


def levels() -> list[Tensor]:
    return [torch.randn(2, 32, 8, 12), torch.randn(2, 32, 4, 6) * 3]


@pytest.mark.parametrize("norm", ["", "GN", "LN", "FrozenBN", "BN", "SyncBN"])
def test_each_norm_gives_maps_and_scripts(norm: str) -> None:
    module, features = head(norm), levels()
    logits, deltas = module(features)
    assert [tuple(x.shape) for x in logits] == [(2, 6, 8, 12), (2, 6, 4, 6)]
    assert [tuple(x.shape) for x in deltas] == [(2, 8, 8, 12), (2, 8, 4, 6)]
    scripted = torch.jit.script(module.eval())
    for found, expected in zip(scripted(features), module(features), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_batch_norms_of_each_level_by_hand() -> None:
    module, features = head("BN"), levels()
    module(features)
    module.eval()
    level = features[1]
    for conv, norm in zip(module.cls_subnet[0::3], module.cls_subnet[1::3], strict=True):
        level = norm[1](nn.functional.conv2d(level, conv.weight, conv.bias, padding=1))
        level = (level * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()
    torch.testing.assert_close(module(features)[0][1], module.cls_score(level))


def test_the_names_of_the_checkpoints() -> None:
    names = set(head("BN").state_dict())
    assert {"cls_subnet.0.weight", "cls_subnet.1.weight", "cls_subnet.1.1.running_var"} <= names
    assert {"cls_subnet.3.bias", "bbox_subnet.4.bias", "cls_score.weight"} <= names
    assert "cls_subnet.1.0.weight" not in names
    assert {"cls_subnet.1.weight", "cls_subnet.3.weight"} <= set(head("GN").state_dict())
    assert "cls_subnet.2.weight" in head("").state_dict()
