"""Test-time augmentation: the views, the merged detections, and the refused export."""

from typing import Any

import numpy as np
import pytest
import torch

from detexport.errors import ConfigError, ExportError
from detexport.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA
from detexport.workflows.model_source import ModelSource
from small_architectures import CONFIG, small_cfg, small_model

OVERRIDES: list[Any] = ["TEST.AUG.MIN_SIZES", [64, 96], "TEST.AUG.MAX_SIZE", 400, "MODEL.DEVICE", "cpu"]


def example() -> dict[str, Any]:
    return {"image": torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(0)).byte()}


def wrapped(name: str, *overrides: Any, **options: Any) -> GeneralizedRCNNWithTTA:
    cfg = small_cfg(name)
    cfg.merge_from_list([*OVERRIDES, *overrides])
    return GeneralizedRCNNWithTTA(cfg, small_model(name).eval(), **options)


def test_views_are_each_size_and_its_flip_and_know_the_way_back() -> None:
    views = DatasetMapperTTA(min_sizes=[64, 32], max_size=60, flip=True)(
        example() | {"height": 128, "width": 192, "file_name": "x.png"}
    )
    assert [tuple(view["image"].shape[1:]) for view in views] == [(40, 60), (40, 60), (32, 48), (32, 48)]
    assert torch.equal(views[1]["image"], views[0]["image"].flip(dims=[2]))
    assert all(view["file_name"] == "x.png" for view in views)
    box = np.array([[48.0, 32.0, 96.0, 64.0]])
    for view, expected in zip(views, ([15, 10, 30, 20], [30, 10, 45, 20]), strict=False):
        moved = view["transforms"].apply_box(box)
        assert moved[0].tolist() == pytest.approx(expected)
        np.testing.assert_allclose(view["transforms"].inverse().apply_box(moved), box)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn"])
def test_one_view_of_the_size_of_the_image_changes_nothing(name: str) -> None:
    model = wrapped(name, "TEST.AUG.MIN_SIZES", [64], "TEST.AUG.FLIP", False)
    with torch.no_grad():
        merged = model([example()])[0]["instances"]
        plain = model.model([example()])[0]["instances"]
    assert len(plain)
    torch.testing.assert_close(merged.scores, plain.scores)
    torch.testing.assert_close(merged.pred_boxes.tensor, plain.pred_boxes.tensor, rtol=0, atol=1e-3)
    assert merged.has("pred_masks") == (name == "mask_rcnn")
    if merged.has("pred_masks"):
        assert (merged.pred_masks != plain.pred_masks).float().mean() < 1e-3


def test_the_flip_of_an_image_has_the_flipped_detections() -> None:
    model = wrapped("mask_rcnn")
    image = example()["image"]
    with torch.no_grad():
        found = model([{"image": image}])[0]["instances"]
        flipped = model([{"image": image.flip(dims=[2])}])[0]["instances"]
    assert len(found) == len(flipped) > 0
    torch.testing.assert_close(found.scores, flipped.scores, rtol=1e-4, atol=1e-4)
    boxes = flipped.pred_boxes.tensor
    back = torch.stack((96 - boxes[:, 2], boxes[:, 1], 96 - boxes[:, 0], boxes[:, 3]), dim=1)
    torch.testing.assert_close(found.pred_boxes.tensor, back, rtol=1e-3, atol=1e-2)
    assert (found.pred_masks != flipped.pred_masks.flip(dims=[2])).float().mean() < 1e-2
    # The masks are predicted again after the first pass.
    assert model.model.roi_heads.mask_head is not None


def test_other_models_and_the_export_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"two-stage detectors.*KEYPOINT_ON: True"):
        wrapped("keypoint_rcnn")
    with pytest.raises(ConfigError, match="RetinaNet"):
        wrapped("retinanet")
    model = wrapped("faster_rcnn")
    for refused in (lambda: model.contract(()), lambda: model.image_graph(()), model.batch_graph):
        with pytest.raises(ExportError, match="GeneralizedRCNNWithTTA cannot be exported"):
            refused()
    with pytest.raises(ConfigError, match=r"augmentation cannot be exported; got: TEST.AUG.ENABLED: True"):
        ModelSource(str(CONFIG), "x.pth", ["TEST.AUG.ENABLED", "True"]).read_config()
