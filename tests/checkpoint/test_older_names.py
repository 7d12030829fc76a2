"""Tensors of older torchvision and PointRend files under the names that the models have now."""

import pytest
import torch

from detexport.checkpoint.load import match_weights
from detexport.checkpoint.older_names import with_new_names
from detexport.errors import CheckpointError

RENAMED = {
    "backbone.fpn.inner_blocks.2.weight": "backbone.fpn.inner_blocks.2.0.weight",
    "backbone.fpn.layer_blocks.0.bias": "backbone.fpn.layer_blocks.0.0.bias",
    "rpn.head.conv.weight": "rpn.head.conv.0.0.weight",
    "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.0.0.weight",
    "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.3.0.bias",
    "head.classification_head.conv.6.weight": "head.classification_head.conv.3.0.weight",
    "head.regression_head.conv.0.bias": "head.regression_head.conv.0.0.bias",
    "roi_heads.mask_point_head.fc3.weight": "roi_heads.mask_head.point_head.fc3.weight",
    "roi_heads.mask_coarse_head.coarse_mask_fc1.bias": "roi_heads.mask_head.coarse_head.fc1.bias",
    "roi_heads.mask_coarse_head.prediction.weight": "roi_heads.mask_head.coarse_head.prediction.weight",
}


@pytest.mark.parametrize("old", RENAMED)
def test_an_older_name_becomes_that_of_the_model(old: str) -> None:
    value = torch.tensor([2.0])
    (name,) = renamed = with_new_names({old: value}, {RENAMED[old]})
    assert name == RENAMED[old]
    assert renamed[name] is value


@pytest.mark.parametrize("old", RENAMED)
def test_a_name_that_the_model_has_is_kept(old: str) -> None:
    """An older name may be a new one of another model, such as a mask head of this project's."""
    assert list(with_new_names({old: torch.zeros(1)}, {old, RENAMED[old]})) == [old]


def test_a_name_stays_if_the_model_has_no_new_one_either() -> None:
    tensors = {name: torch.zeros(1) for name in ("rpn.head.conv.weight", "rpn.head.convolution.weight", "x")}
    assert list(with_new_names(tensors, {"x", "rpn.head.convolution.0.0.weight"})) == list(tensors)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_file_with_an_old_and_a_new_name_of_one_parameter_is_refused(reverse: bool) -> None:
    old, new = "rpn.head.conv.weight", RENAMED["rpn.head.conv.weight"]
    names = [new, old] if reverse else [old, new]
    with pytest.raises(CheckpointError, match=rf"the same parameter; got: an older name of {new}"):
        with_new_names({name: torch.zeros(1) for name in names}, {new})


def test_two_older_names_of_one_parameter_are_refused() -> None:
    """RetinaNet's layers 0 and 1 of the older numbering are one convolution and its activation."""
    tensors = {f"head.regression_head.conv.{index}.weight": torch.zeros(1) for index in (0, 1)}
    with pytest.raises(CheckpointError, match=r"another older one; .*remedy: remove one"):
        with_new_names(tensors, {"head.regression_head.conv.0.0.weight"})


def test_names_of_older_point_rend_files() -> None:
    older = {
        "roi_heads.mask_coarse_head.coarse_mask_fc1.weight": torch.full((2,), 1.0),
        "roi_heads.mask_coarse_head.reduce_spatial_dim_conv.bias": torch.full((2,), 2.0),
        "roi_heads.mask_coarse_head.prediction.weight": torch.full((2,), 3.0),
        "roi_heads.mask_point_head.fc3.weight": torch.full((2,), 4.0),
    }
    wanted = [
        "roi_heads.mask_head.coarse_head.fc1.weight",
        "roi_heads.mask_head.coarse_head.reduce_spatial_dim_conv.bias",
        "roi_heads.mask_head.coarse_head.prediction.weight",
        "roi_heads.mask_head.point_head.fc3.weight",
    ]
    found, report = match_weights(older, {name: [2] for name in wanted})
    assert report.complete
    assert [float(found[name][0]) for name in wanted] == [1.0, 2.0, 3.0, 4.0]
