"""Mapping of records of ``DatasetCatalog`` to inputs of a model: reading, augmentation, tensors."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detexport.config import configurable
from detexport.data import detection_utils as utils
from detexport.data import transforms as T
from detexport.errors import ConfigError


class DatasetMapper:
    """Mapper from records to inputs of a model: it reads the image and augments it with its annotations.

    It is built from options, ``DatasetMapper(True, augmentations=[...], image_format="BGR")``, or from a
    configuration, ``DatasetMapper(cfg, is_train=True)``, with options that override it.

    Args:
        is_train: whether to return the ground truth, too.
        augmentations: augmentations or transforms, in order of application.
        image_format: ``"BGR"`` or ``"RGB"``.
        use_instance_mask: whether to return masks.
        use_keypoint: whether to return keypoints.
        instance_mask_format: ``"polygon"`` or ``"bitmask"``.
        keypoint_hflip_indices: see ``create_keypoint_hflip_indices``.
        precomputed_proposal_topk: number of proposals per record; None to leave them out.
        recompute_boxes: compute boxes from the augmented masks.

    Raises:
        ConfigError: an option of the configuration is unknown or not supported.
        TypeError: an option is missing or unknown.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        if recompute_boxes and not use_instance_mask:
            raise TypeError("recompute_boxes needs use_instance_mask")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.use_keypoint = use_keypoint
        self.instance_mask_format = instance_mask_format
        self.keypoint_hflip_indices = keypoint_hflip_indices
        self.proposal_topk = precomputed_proposal_topk
        self.recompute_boxes = recompute_boxes

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Return the options for a configuration: see ``mapper_options``."""
        return {"is_train": is_train, **mapper_options(cfg, is_train)}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record to an input of a model.

        Args:
            dataset_dict: see ``detexport.data.datasets``; it is not changed.

        Returns:
            the record with ``image`` (3, H, W) uint8; with ``proposals`` if it has any; and for training
            with ``instances`` and, if it has one, ``sem_seg`` (H, W) int64 in place of the file names and
            annotations.

        Raises:
            DataError: the image cannot be read, or has another size than in the record.
        """
        record = copy.deepcopy(dataset_dict)
        image = utils.read_image(record["file_name"], format=self.image_format)
        utils.check_image_size(record, image)
        sem_seg_file = record.pop("sem_seg_file_name", None)
        sem_seg = utils.read_image(sem_seg_file, "L")[:, :, 0] if self.is_train and sem_seg_file else None
        inputs = T.AugInput(image, sem_seg=sem_seg)
        transforms = self.augmentations(inputs)
        size = inputs.image.shape[:2]
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if inputs.sem_seg is not None:
            record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        if self.proposal_topk is not None:
            utils.transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        annotations = record.pop("annotations", None)
        if self.is_train and annotations is not None:
            record["instances"] = self._instances(annotations, transforms, size)
        return record

    def _instances(
        self, annotations: Sequence[dict[str, Any]], transforms: T.Transform, size: tuple[int, int]
    ) -> Any:
        unused = {"segmentation": not self.use_instance_mask, "keypoints": not self.use_keypoint}
        transformed = [
            utils.transform_instance_annotations(
                {key: value for key, value in annotation.items() if not unused.get(key)},
                transforms,
                size,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
        ]
        instances = utils.annotations_to_instances(transformed, size, self.instance_mask_format)
        # After a crop the transformed box may be larger than the rest of the object.
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)


def mapper_options(cfg: Any, is_train: bool) -> dict[str, Any]:
    """Return the options of ``DatasetMapper`` for a configuration.

    Raises:
        ConfigError: an option is unknown or not supported.
    """
    node, data = cfg.INPUT, cfg.DATASETS
    augmentations = utils.build_augmentation(cfg, is_train)
    if is_train and node.get("COLOR_AUG_SSD", False):
        raise ConfigError(
            "unsupported augmentation",
            got="INPUT.COLOR_AUG_SSD: True",
            expected="INPUT.COLOR_AUG_SSD: False",
            remedy="set it to False, or give DatasetMapper your own augmentations",
        )
    if node.MASK_FORMAT not in utils.MASK_FORMATS:
        raise ConfigError(
            "unknown mask format",
            got=f"INPUT.MASK_FORMAT: {node.MASK_FORMAT}",
            expected=" or ".join(utils.MASK_FORMATS),
        )
    cropped = is_train and node.CROP.ENABLED
    if cropped:
        augmentations.insert(0, _crop(node.CROP))
    options: dict[str, Any] = {
        "augmentations": augmentations,
        "image_format": node.FORMAT,
        "use_instance_mask": cfg.MODEL.MASK_ON,
        "use_keypoint": cfg.MODEL.KEYPOINT_ON,
        "instance_mask_format": node.MASK_FORMAT,
        "recompute_boxes": cropped and cfg.MODEL.MASK_ON,
    }
    if cfg.MODEL.KEYPOINT_ON and is_train:
        options["keypoint_hflip_indices"] = utils.create_keypoint_hflip_indices(data.TRAIN)
    if cfg.MODEL.LOAD_PROPOSALS:
        options["precomputed_proposal_topk"] = (
            data.PRECOMPUTED_PROPOSAL_TOPK_TRAIN if is_train else data.PRECOMPUTED_PROPOSAL_TOPK_TEST
        )
    return options


def _crop(node: Any) -> T.RandomCrop:
    if node.get("SINGLE_CATEGORY_MAX_AREA", 1.0) != 1.0:
        raise ConfigError(
            "unsupported crop: SINGLE_CATEGORY_MAX_AREA, which limits the area of a class in the crop",
            got=f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA: {node.SINGLE_CATEGORY_MAX_AREA}",
            expected="INPUT.CROP.SINGLE_CATEGORY_MAX_AREA: 1.0",
            remedy="set it to 1.0, or give DatasetMapper your own augmentations",
        )
    try:
        return T.RandomCrop(node.TYPE, node.SIZE)
    except ValueError as error:
        raise ConfigError(
            "unknown crop",
            got=f"INPUT.CROP.TYPE: {node.TYPE}",
            expected="relative, relative_range, absolute or absolute_range",
        ) from error
