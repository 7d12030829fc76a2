"""Panoptic-DeepLab: grouping of pixels by hand, thing classes of a data set, losses, and the outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_deeplab import SMALL, images
from torch import Tensor

from detexport.config.cfg import CfgNode, get_cfg
from detexport.errors import ConfigError, ExportError, InputError
from detexport.modeling import build_model
from detexport.modeling.panoptic_deeplab.grouping import VOID, CenterGrouping
from detexport.modeling.panoptic_deeplab.model import things_of
from detexport.projects.panoptic_deeplab import add_panoptic_deeplab_config
from detexport.utils.catalog import MetadataCatalog
from detexport.workflows.model_source import ModelSource

PANOPTIC: list[Any] = [
    "MODEL.META_ARCHITECTURE", "PanopticDeepLab", "MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead",
    "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS", 8, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19,
    "MODEL.INS_EMBED_HEAD.IN_FEATURES", ["res2", "res5"], "MODEL.INS_EMBED_HEAD.PROJECT_FEATURES", ["res2"],
    "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS", [8], "MODEL.INS_EMBED_HEAD.CONVS_DIM", 8,
    "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS", 8, "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS", 8,
    "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS", [1, 2, 3], "MODEL.INS_EMBED_HEAD.NORM", "BN",
    "DATASETS.TRAIN", ["cityscapes_fine_panoptic_train"],
]  # fmt: skip


def grouping(**options: Any) -> CenterGrouping:
    defaults: dict[str, Any] = {
        "thing_ids": (2, 3), "label_divisor": 1000, "stuff_area": 3, "center_threshold": 0.1,
        "nms_kernel": 3, "top_k": 10,
    }  # fmt: skip
    return CenterGrouping(**(defaults | options))


def configured(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    cfg.merge_from_list([*SMALL, *PANOPTIC, *overrides])
    return cfg


def heat(*peaks: tuple[int, int, float], size: tuple[int, int] = (6, 8)) -> Tensor:
    values = torch.zeros(1, *size)
    for y, x, value in peaks:
        values[0, y, x] = value
    return values


def test_a_centre_is_above_the_threshold_and_the_greatest_of_its_window() -> None:
    peaks = heat((0, 0, 0.1), (2, 2, 0.5), (2, 3, 0.4), (5, 7, 0.3))
    assert grouping().centers(peaks).tolist() == [[2, 2], [5, 7]]
    assert grouping(nms_kernel=1).centers(peaks).tolist() == [[2, 2], [2, 3], [5, 7]]


def test_fewer_than_top_k_centres_are_kept() -> None:
    peaks = heat((0, 0, 0.9), (0, 4, 0.8), (4, 0, 0.7))
    assert grouping(top_k=4).centers(peaks).tolist() == [[0, 0], [0, 4], [4, 0]]
    assert grouping(top_k=3).centers(peaks).tolist() == [[0, 0], [0, 4]]
    assert grouping(top_k=100).centers(peaks).tolist() == [[0, 0], [0, 4], [4, 0]]


def test_pixels_belong_to_the_centre_they_point_to_and_instances_count_by_class() -> None:
    classes = torch.zeros(6, 8, dtype=torch.int64)
    classes[:2, :2], classes[:2, 6:], classes[4:, :2], classes[5, 7] = 2, 2, 3, 1
    offset = torch.zeros(2, 6, 8)
    offset[1, 0, 1] = 20.0  # a pixel of the first box that points to the second
    panoptic = grouping().panoptic(classes, heat((0, 0, 0.9), (0, 7, 0.8), (5, 0, 0.7)), offset)
    assert panoptic[0, 0] == panoptic[1, 1] == 2001
    assert panoptic[0, 7] == panoptic[0, 1] == 2002
    assert panoptic[5, 0] == 3001
    assert panoptic[3, 3] == 0
    # One pixel of stuff is less than stuff_area.
    assert panoptic[5, 7] == VOID


def test_things_without_a_centre_are_void_and_have_no_instances() -> None:
    classes = torch.full((6, 8), 2)
    panoptic = grouping().panoptic(classes, heat(), torch.zeros(2, 6, 8))
    assert (panoptic == VOID).all()
    assert grouping().instances(panoptic, torch.zeros(4, 6, 8), heat()) is None


def test_an_instance_is_scored_by_its_class_and_the_heat_at_its_centroid() -> None:
    panoptic = torch.full((6, 8), VOID)
    panoptic[1:4, 2:7], panoptic[5, :2], panoptic[0, 0] = 3001, 2001, 0
    logits = torch.zeros(4, 6, 8)
    logits[3, 1:4, 2:7] = 2.0
    center = heat((2, 4, 0.5), (5, 0, 0.25))
    found = grouping().instances(panoptic, logits, center)
    assert found is not None
    assert found.pred_classes.tolist() == [2, 3]
    assert found.pred_boxes.tensor.tolist() == [[0, 5, 2, 6], [2, 1, 7, 4]]
    probability = float(torch.tensor([0.0, 0.0, 0.0, 2.0]).softmax(0)[3])
    assert found.scores.tolist() == pytest.approx([0.25 * 0.25, 0.5 * probability])
    assert torch.equal(found.pred_masks[1], panoptic == 3001)


def test_things_come_from_the_metadata_of_the_data_set() -> None:
    assert things_of(configured()) == (tuple(range(11, 19)), 1000)
    MetadataCatalog.get("own_set").set(thing_dataset_id_to_contiguous_id={7: 1, 3: 0}, label_divisor=100)
    try:
        assert things_of(configured("DATASETS.TRAIN", ["own_set"])) == ((0, 1), 100)
    finally:
        MetadataCatalog.remove("own_set")
    with pytest.raises(ConfigError, match=r"are unknown; got: DATASETS.TRAIN: \[\]"):
        things_of(configured("DATASETS.TRAIN", []))


def test_it_trains_on_maps_and_returns_all_outputs() -> None:
    torch.manual_seed(0)
    model = build_model(configured()).train()
    (example,) = images((64, 96))
    targets = {
        "sem_seg": torch.randint(0, 19, (64, 96)),
        "center": torch.rand(64, 96), "center_weights": torch.ones(64, 96),
        "offset": torch.randn(2, 64, 96), "offset_weights": torch.ones(64, 96),
    }  # fmt: skip
    losses = model([example | targets, example | targets])
    assert set(losses) == {"loss_sem_seg", "loss_center", "loss_offset"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(InputError, match="lacks targets of Panoptic-DeepLab"):
        model([example | {"sem_seg": targets["sem_seg"]}])
    model.eval()
    with torch.no_grad():
        output = model([example | {"height": 80, "width": 100}])[0]
        maps = model.detect([example["image"]])[0]
    assert output["sem_seg"].shape == (19, 80, 100)
    assert output["panoptic_seg"][0].shape == (80, 100)
    assert [tuple(maps[name].shape) for name in ("sem_seg", "center", "offset")] == [
        (19, 64, 96), (1, 64, 96), (2, 64, 96),
    ]  # fmt: skip


def test_two_kinds_of_convolutions_and_half_a_network_are_refused() -> None:
    for key in ("USE_DEPTHWISE_SEPARABLE_CONV", "BENCHMARK_NETWORK_SPEED"):
        with pytest.raises(ConfigError, match=key):
            build_model(configured(f"MODEL.PANOPTIC_DEEPLAB.{key}", True))
    with pytest.raises(ConfigError, match="NMS_KERNEL: 4; expected: an odd number"):
        build_model(configured("MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL", 4))


def test_its_export_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="PanopticDeepLab cannot be exported"):
        build_model(configured()).contract(())
    (tmp_path / "config.yaml").write_text(configured().dump())
    with pytest.raises(ConfigError, match="PanopticDeepLab is not exported"):
        ModelSource(str(tmp_path / "config.yaml"), "x.pth").read_config()
