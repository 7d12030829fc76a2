"""The parts of a ``DatasetMapper``, for mappers of one's own.

Images here are (H, W, C), as transforms take them; annotations are dicts as ``detexport.data.datasets`` gives
them. Shapes: R instances.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from detexport.data import images
from detexport.data import transforms as T
from detexport.data.catalog import MetadataCatalog
from detexport.data.mapping import annotation_keypoints, annotation_mask
from detexport.errors import ConfigError, DataError
from detexport.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

MASK_FORMATS = ("polygon", "bitmask")


def read_image(file_name: str | Path, format: str = "BGR") -> np.ndarray:
    """Read an image, upright as its EXIF orientation says.

    Args:
        file_name: path of the image.
        format: ``"BGR"``, ``"RGB"``, or ``"L"`` for an image of one channel, such as a map of labels.

    Returns:
        uint8 (H, W, 3), or (H, W, 1).

    Raises:
        DataError: the file cannot be read, or is not an image of 8 bits a channel.
        ValueError: another format.
    """
    if format == "L":
        return images.read_label_map(Path(file_name))[:, :, None]
    if format not in ("BGR", "RGB"):
        raise ValueError(f"an image is read as BGR, RGB or L, not {format!r}")
    image = images.read_image(Path(file_name), cast("images.ChannelOrder", format))
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Check that an image (H, W, ...) has the size in its record, which is filled in where it is missing.

    Raises:
        DataError: they differ.
    """
    height, width = image.shape[:2]
    expected: Any = (dataset_dict.setdefault("height", height), dataset_dict.setdefault("width", width))
    images.check_image_size(dataset_dict.get("file_name", "the image"), (height, width), expected)


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """The resize of ``cfg.INPUT`` and, to train, its flip.

    Raises:
        ConfigError: an option is not known.
    """
    node = cfg.INPUT
    if not is_train:
        return [T.ResizeShortestEdge(node.MIN_SIZE_TEST, node.MAX_SIZE_TEST)]
    flips = {
        "horizontal": [T.RandomFlip()],
        "vertical": [T.RandomFlip(horizontal=False, vertical=True)],
        "none": [],
    }
    if node.RANDOM_FLIP not in flips:
        raise ConfigError(
            "unknown flip", got=f"INPUT.RANDOM_FLIP: {node.RANDOM_FLIP}", expected=" or ".join(flips)
        )
    try:
        resize = T.ResizeShortestEdge(
            list(node.MIN_SIZE_TRAIN), node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING
        )
    except ValueError as error:
        raise ConfigError(
            "the sizes to train with do not fit",
            got=f"INPUT.MIN_SIZE_TRAIN: {node.MIN_SIZE_TRAIN}, "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING: {node.MIN_SIZE_TRAIN_SAMPLING}",
            expected="lengths to choose from with 'choice', the least and the greatest with 'range'",
        ) from error
    return [resize, *flips[node.RANDOM_FLIP]]


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """One annotation as its image was transformed; the given dict is changed.

    Args:
        annotation: of one instance.
        transforms: what was done to the image.
        image_size: height and width of the image afterwards, in px.
        keypoint_hflip_indices: for each keypoint the index of the one that it becomes in a mirror.

    Returns:
        the annotation: ``bbox`` XYXY in px, clipped to the image; ``segmentation`` polygons, or a bitmap
        where it was RLE or a bitmap; ``keypoints`` (K, 3).
    """
    transform = transforms if isinstance(transforms, T.Transform) else T.TransformList(transforms)
    height, width = image_size
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    annotation["bbox"] = transform.apply_box([box])[0].clip(0, [width, height, width, height])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        annotation["segmentation"] = _transformed_mask(annotation["segmentation"], transform)
    if "keypoints" in annotation:
        annotation["keypoints"] = transform_keypoint_annotations(
            annotation["keypoints"], transform, image_size, keypoint_hflip_indices
        )
    return annotation


def _transformed_mask(segmentation: Any, transform: T.Transform) -> Any:
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
        return [polygon.reshape(-1) for polygon in transform.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        segmentation = annotation_mask(segmentation, *segmentation["size"])
    return transform.apply_segmentation(np.asarray(segmentation))


def transform_keypoint_annotations(
    keypoints: Any,
    transforms: T.Transform,
    image_size: tuple[int, int],
    keypoint_hflip_indices: np.ndarray | None = None,
) -> np.ndarray:
    """One instance's keypoints as its image was transformed.

    Args:
        keypoints: x, y, visibility, ... in px.
        transforms: what was done to the image.
        image_size: height and width of the image afterwards, in px.
        keypoint_hflip_indices: for each keypoint the index of the one that it becomes in a mirror.

    Returns:
        float64 (K, 3); all 0 where a keypoint is not labelled, or left the image.

    Raises:
        DataError: the image was mirrored, and what becomes of the keypoints is not known.
    """
    points = np.asarray(keypoints, dtype=np.float64).reshape(-1, 3)
    xy = transforms.apply_coords(points[:, :2])
    inside = ((xy >= 0) & (xy <= np.array(image_size[::-1]))).all(axis=1)
    visibility = np.where(inside, points[:, 2], 0)
    points = np.concatenate((xy, visibility[:, None]), axis=1)
    done = transforms.transforms if isinstance(transforms, T.TransformList) else [transforms]
    if sum(isinstance(one, T.HFlipTransform) for one in done) % 2:
        if keypoint_hflip_indices is None or len(keypoint_hflip_indices) != len(points):
            raise DataError(
                "the keypoints of a mirrored image have no names in the mirror",
                got=f"{len(points)} keypoints and keypoint_hflip_indices {keypoint_hflip_indices}",
                expected="an index for each keypoint",
                remedy="set keypoint_names and keypoint_flip_map in the data set's metadata, or flip nothing",
            )
        points = points[np.asarray(keypoint_hflip_indices)]
    points[points[:, 2] == 0] = 0
    return points


def create_keypoint_hflip_indices(dataset_names: str | Sequence[str]) -> np.ndarray:
    """For each keypoint of these data sets the index of the one that it becomes in a mirror.

    Raises:
        DataError: the data sets differ in their keypoints, or nothing is known of them.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    keypoints = check_metadata_consistency("keypoint_names", names)
    pairs = check_metadata_consistency("keypoint_flip_map", names)
    mirrored = dict(pairs) | {right: left for left, right in pairs}
    return np.array([keypoints.index(mirrored.get(name, name)) for name in keypoints], np.int64)


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> Any:
    """What the metadata of all these data sets says under ``key``.

    Raises:
        DataError: it is not set, or the data sets differ.
    """
    values = [MetadataCatalog.get(name).get(key) for name in dataset_names]
    if not values or values[0] is None or any(value != values[0] for value in values):
        raise DataError(
            f"the data sets {', '.join(dataset_names)} do not have one {key}",
            got=values,
            expected=f"the same {key} in the metadata of each",
            remedy=f"MetadataCatalog.get(name).{key} = ...",
        )
    return values[0]


def annotations_to_instances(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """The annotations of one image as what a model learns from.

    Args:
        annos: as ``transform_instance_annotations`` gives them.
        image_size: height and width in px.
        mask_format: ``"polygon"`` or ``"bitmask"``.

    Returns:
        ``gt_boxes``, ``gt_classes`` and, where the annotations have them, ``gt_masks`` and ``gt_keypoints``.

    Raises:
        DataError: polygons are asked for, and a segmentation is a bitmap; or some annotations have
            segmentations or keypoints that others lack.
    """
    if mask_format not in MASK_FORMATS:
        raise ValueError(f"mask_format is {' or '.join(MASK_FORMATS)}, got {mask_format!r}")
    boxes = [BoxMode.convert(anno["bbox"], anno["bbox_mode"], BoxMode.XYXY_ABS) for anno in annos]
    instances = Instances(
        image_size,
        gt_boxes=Boxes(torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))),
        gt_classes=torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64),
    )
    if segmentations := _of_all(annos, "segmentation"):
        if mask_format == "polygon":
            instances.gt_masks = _polygon_masks(segmentations)
        else:
            bitmaps = [_bitmap(segmentation, image_size) for segmentation in segmentations]
            instances.gt_masks = BitMasks(torch.from_numpy(np.array(bitmaps)))
    if _of_all(annos, "keypoints"):
        instances.gt_keypoints = annotation_keypoints(annos)
    return instances


def _of_all(annos: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """What each annotation has under a key; nothing where none has it."""
    having = [anno[key] for anno in annos if key in anno]
    if having and len(having) < len(annos):
        raise DataError(
            f"some instances of an image have no {key}",
            got=f"{key} of {len(having)} of {len(annos)} instances",
            expected=f"{key} of each, or of none",
            remedy=f"complete the annotations, leave out those without {key}, or train a model without",
        )
    return having


def _polygon_masks(segmentations: Sequence[Any]) -> PolygonMasks:
    kinds = sorted({type(segmentation).__name__ for segmentation in segmentations} - {"list"})
    if kinds:
        raise DataError(
            "a segmentation is no polygon",
            got=f"{', '.join(kinds)}, which an RLE becomes",
            expected="lists of polygons",
            remedy="set INPUT.MASK_FORMAT to bitmask",
        )
    return PolygonMasks(segmentations)


def _bitmap(segmentation: Any, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, np.ndarray):
        return segmentation.astype(bool)
    if isinstance(segmentation, list):
        segmentation = [np.asarray(polygon).tolist() for polygon in segmentation]
    return annotation_mask(segmentation, *image_size)


def filter_empty_instances(
    instances: Instances,
    by_box: bool = True,
    by_mask: bool = True,
    box_threshold: float = 1e-5,
    return_mask: bool = False,
) -> Any:
    """The instances that something can be learnt from.

    Args:
        instances: with ``gt_boxes`` and perhaps ``gt_masks``.
        by_box: leave out empty boxes.
        by_mask: leave out empty masks.
        box_threshold: a box whose sides are not longer, in px, is empty.
        return_mask: give (R,) bool, which were kept, too.
    """
    if not (by_box or by_mask):
        raise ValueError("instances are filtered by box, by mask or by both")
    kept: Tensor = torch.ones(len(instances), dtype=torch.bool)
    if by_box:
        kept &= instances.gt_boxes.nonempty(threshold=box_threshold)
    if by_mask and instances.has("gt_masks"):
        kept &= instances.gt_masks.nonempty()
    return (instances[kept], kept) if return_mask else instances[kept]


def transform_proposals(
    dataset_dict: dict[str, Any],
    image_shape: tuple[int, int],
    transforms: T.Transform,
    *,
    proposal_topk: int,
    min_box_size: float = 0,
) -> None:
    """A record's proposals as its image was transformed, in place, as ``proposals``.

    Args:
        dataset_dict: with ``proposal_boxes`` (P, 4), ``proposal_bbox_mode`` and
            ``proposal_objectness_logits`` (P,), by descending score.
        image_shape: height and width of the image afterwards, in px.
        transforms: what was done to the image.
        proposal_topk: how many to keep.
        min_box_size: both sides of a proposal are longer, in px.
    """
    if "proposal_boxes" not in dataset_dict:
        return
    boxes, mode = dataset_dict.pop("proposal_boxes"), dataset_dict.pop("proposal_bbox_mode")
    logits = np.asarray(dataset_dict.pop("proposal_objectness_logits"), np.float32)
    moved = transforms.apply_box(BoxMode.convert(np.asarray(boxes), mode, BoxMode.XYXY_ABS))
    proposals = Instances(
        image_shape,
        proposal_boxes=Boxes(torch.from_numpy(moved.astype(np.float32))),
        objectness_logits=torch.from_numpy(logits),
    )
    proposals.proposal_boxes.clip(image_shape)
    kept = proposals.proposal_boxes.nonempty(threshold=min_box_size)
    dataset_dict["proposals"] = proposals[kept][:proposal_topk]
