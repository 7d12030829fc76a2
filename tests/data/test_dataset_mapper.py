from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coco_files import FLIP_MAP, NAMES, write_coco
from PIL import Image

from detexport.config import get_cfg
from detexport.config.cfg import CfgNode
from detexport.contract import ResizeRule
from detexport.data import (
    DatasetMapper,
    MetadataCatalog,
    load_coco_json,
    read_image,
    resize_image,
    resized_size,
)
from detexport.data import transforms as T
from detexport.errors import ConfigError, DataError
from detexport.structures import BitMasks, BoxMode, PolygonMasks


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    return load_coco_json(write_coco(tmp_path), tmp_path)


@pytest.fixture
def cfg() -> Iterator[CfgNode]:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (80,), "none"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 90
    cfg.DATASETS.TRAIN = ("mapper_train",)
    MetadataCatalog.get("mapper_train").set(keypoint_names=list(NAMES), keypoint_flip_map=FLIP_MAP)
    yield cfg
    MetadataCatalog.remove("mapper_train")


def test_inference_resizes_as_the_pipeline_does(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    for order in ("RGB", "BGR"):
        cfg.INPUT.FORMAT = order
        mapper = DatasetMapper(cfg, is_train=False)
        for record in records:
            example = mapper(record)
            size = resized_size(record["height"], record["width"], ResizeRule(64, 90))
            expected = resize_image(read_image(Path(record["file_name"]), order), size)
            np.testing.assert_array_equal(example["image"].numpy(), expected)
            assert set(example) == {"file_name", "height", "width", "image_id", "image"}
            assert (example["height"], example["width"]) == (record["height"], record["width"])


def test_training_returns_the_ground_truth(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    before = repr(records[0])
    example = DatasetMapper(cfg)(records[0])
    assert repr(records[0]) == before
    instances = example["instances"]
    assert example["image"].shape == (3, 80, 120)
    assert instances.image_size == (80, 120)
    assert instances.gt_boxes.tensor.tolist() == [[8, 12, 40, 48], [60, 20, 100, 60]]
    assert instances.gt_classes.tolist() == [7, 3]  # as in the file
    assert isinstance(instances.gt_masks, PolygonMasks)
    assert instances.gt_masks.area().tolist() == [288 * 4, 200 * 4]
    assert instances.gt_keypoints.tensor[0].tolist() == [[21, 21, 2], [13, 17, 1], [0, 0, 0]]
    assert len(DatasetMapper(cfg)(records[2])["instances"]) == 0  # a crowd
    cfg.INPUT.MASK_FORMAT = "bitmask"
    assert isinstance(DatasetMapper(cfg)(records[0])["instances"].gt_masks, BitMasks)


def test_unused_annotations_are_left_out(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    assert set(DatasetMapper(cfg)(records[0])["instances"].get_fields()) == {"gt_boxes", "gt_classes"}


def test_a_flipped_image(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    flip = T.RandomFlip(prob=1.0)
    plain = DatasetMapper(cfg, augmentations=[])(records[0])
    mirrored = DatasetMapper(cfg, augmentations=[flip])(records[0])
    assert torch.equal(mirrored["image"], plain["image"].flip(2))
    assert mirrored["instances"].gt_boxes.tensor[0].tolist() == [40, 6, 56, 24]
    # Flipped polygons rasterize to the flipped bitmap, except for the outline.
    flipped = plain["instances"].gt_masks.tensor.flip(2)
    assert (mirrored["instances"].gt_masks.tensor != flipped).flatten(1).sum(dim=1).max() < 25
    # The eyes are swapped.
    assert mirrored["instances"].gt_keypoints.tensor[0].tolist() == [
        [49.5, 10.5, 2],
        [0, 0, 0],
        [53.5, 8.5, 1],
    ]


def test_boxes_are_recomputed_from_the_masks_after_a_crop(
    records: list[dict[str, Any]], cfg: CfgNode
) -> None:
    np.random.seed(0)
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "relative", [0.5, 0.5]
    mapper = DatasetMapper(cfg)
    seen = 0
    for _ in range(10):
        instances = mapper(records[0])["instances"]
        assert instances.image_size == (80, 120)
        seen += len(instances)
        edges = instances.gt_masks.get_bounding_boxes().tensor
        assert torch.equal(instances.gt_boxes.tensor, edges)
    assert seen > 3
    # Without masks the box is only clipped.
    cfg.MODEL.MASK_ON = False
    assert not DatasetMapper(cfg).recompute_boxes


def test_semantic_labels(records: list[dict[str, Any]], cfg: CfgNode, tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (40, 60), dtype=np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {**records[0], "sem_seg_file_name": str(tmp_path / "labels.png")}
    example = DatasetMapper(cfg)(record)
    assert "sem_seg_file_name" not in example
    assert example["sem_seg"].dtype == torch.int64
    np.testing.assert_array_equal(example["sem_seg"].numpy(), labels.repeat(2, axis=0).repeat(2, axis=1))
    assert "sem_seg" not in DatasetMapper(cfg, is_train=False)(record)


def test_proposals(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = 1
    record = {
        **records[0],
        "proposal_boxes": np.array([[0.0, 0, 30, 20], [0, 0, 10, 10]]),
        "proposal_objectness_logits": np.array([2.0, 1.0]),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
    }
    assert len(DatasetMapper(cfg)(record)["proposals"]) == 2
    proposals = DatasetMapper(cfg, is_train=False)(record)["proposals"]
    assert proposals.proposal_boxes.tensor.tolist() == [[0, 0, 45, 30]]  # 40 x 60 -> 60 x 90


def test_a_mapper_from_options_only(records: list[dict[str, Any]]) -> None:
    mapper = DatasetMapper(is_train=True, augmentations=[T.Resize(20)], image_format="RGB")
    example = mapper(records[1])
    assert example["image"].shape == (3, 20, 20)
    assert len(example["instances"]) == 1
    with pytest.raises(TypeError, match="image_format"):
        DatasetMapper(True, augmentations=[])
    with pytest.raises(TypeError, match="'augmentation'"):
        DatasetMapper(True, augmentation=[], image_format="RGB")
    with pytest.raises(TypeError, match="needs use_instance_mask"):
        DatasetMapper(True, augmentations=[], image_format="RGB", recompute_boxes=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.MASK_FORMAT", "rle"),
        ("INPUT.RANDOM_FLIP", "both"),
        ("INPUT.CROP.TYPE", "half"),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "0.5"),
    ],
)
def test_unknown_options_are_refused_by_name(cfg: CfgNode, key: str, value: str) -> None:
    cfg.INPUT.CROP.ENABLED = True
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError, match=f"{key}: {value}"):
        DatasetMapper(cfg)


def test_colour_augmentation_is_refused_by_name(cfg: CfgNode) -> None:
    cfg.INPUT.COLOR_AUG_SSD = True
    with pytest.raises(ConfigError, match=r"INPUT\.COLOR_AUG_SSD"):
        DatasetMapper(cfg, is_train=True)
    DatasetMapper(cfg, is_train=False)


def test_an_image_of_another_size_than_its_record(records: list[dict[str, Any]], cfg: CfgNode) -> None:
    with pytest.raises(DataError, match="expected: height 41"):
        DatasetMapper(cfg)({**records[0], "height": 41})


def test_from_config_of_a_subclass_is_called() -> None:
    class Flat(DatasetMapper):
        @classmethod
        def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
            return {**super().from_config(cfg, is_train), "augmentations": [], "image_format": "RGB"}

    mapper = Flat(get_cfg(), is_train=False)
    assert (mapper.is_train, mapper.image_format, mapper.augmentations.augs) == (False, "RGB", [])
    assert DatasetMapper(True, augmentations=[], image_format="BGR").image_format == "BGR"
