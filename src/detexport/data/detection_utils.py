"""Building blocks of ``DatasetMapper``, for custom mappers.

Images are (H, W, C), as in ``detexport.data.transforms``; annotations are dicts as in
``detexport.data.datasets``. Shapes: R instances.
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
from detexport.data.mapping import annotation_keypoints
from detexport.data.segmentation import annotation_mask
from detexport.errors import ConfigError, DataError
from detexport.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks, RotatedBoxes


class SizeMismatchError(DataError):
    """An image has another size than its record says."""


MASK_FORMATS = ("polygon", "bitmask")


def read_image(file_name: str | Path, format: str | None = None) -> np.ndarray:
    """Read an image, rotated upright by its EXIF orientation.

    Args:
        file_name: path of the image.
        format: ``"BGR"``, ``"RGB"``, or ``"L"`` for an image with one channel, such as a label map; None for
            RGB.

    Returns:
        uint8 (H, W, 3), or (H, W, 1).

    Raises:
        DataError: the file cannot be read, or is not an image of 8 bits per channel.
        ValueError: ``format`` has another value.
    """
    if format == "L":
        return images.read_label_map(Path(file_name))[:, :, None]
    format = format or "RGB"
    if format not in ("BGR", "RGB"):
        raise ValueError(f"an image is read as BGR, RGB or L, not {format!r}")
    image = images.read_image(Path(file_name), cast("images.ChannelOrder", format))
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def check_image_size(dataset_dict: dict[str, Any], image: np.ndarray) -> None:
    """Check that an image (H, W, ...) has the size in its record; add the size if it is missing.

    Raises:
        SizeMismatchError: they differ.
    """
    height, width = image.shape[:2]
    expected: Any = (dataset_dict.setdefault("height", height), dataset_dict.setdefault("width", width))
    try:
        images.check_image_size(dataset_dict.get("file_name", "the image"), (height, width), expected)
    except DataError as error:
        raise SizeMismatchError(str(error)) from error


def build_augmentation(cfg: Any, is_train: bool) -> list[T.Augmentation]:
    """Return the resize of ``cfg.INPUT`` and, for training, its flip.

    Raises:
        ConfigError: an option is unknown.
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
            "unknown flip",
            got=f"INPUT.RANDOM_FLIP: {node.RANDOM_FLIP}",
            expected=" or ".join(flips),
            remedy="correct INPUT.RANDOM_FLIP",
        )
    try:
        resize = T.ResizeShortestEdge(
            list(node.MIN_SIZE_TRAIN), node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING
        )
    except ValueError as error:
        raise ConfigError(
            "the training sizes do not fit the sampling",
            got=f"INPUT.MIN_SIZE_TRAIN: {node.MIN_SIZE_TRAIN}, "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING: {node.MIN_SIZE_TRAIN_SAMPLING}",
            expected="lengths to choose from with 'choice', the least and the greatest with 'range'",
            remedy="correct one of the two",
        ) from error
    return [resize, *flips[node.RANDOM_FLIP]]


build_transform_gen = build_augmentation
"""Older name in detectron2."""


def convert_image_to_rgb(image: Any, format: str) -> np.ndarray:
    """Return an image as RGB.

    Args:
        image: (H, W, 3), or (H, W, 1) for ``"L"``; an array or a tensor.
        format: ``"BGR"``, ``"RGB"`` or ``"L"``.

    Returns:
        uint8 (H, W, 3).
    """
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if format not in ("BGR", "RGB", "L"):
        raise ValueError(f"an image is converted from BGR, RGB or L, not {format!r}")
    if format == "BGR":
        pixels = pixels[:, :, ::-1]
    elif format == "L":
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels).astype(np.uint8)


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict[str, Any]
) -> T.CropTransform:
    """Draw a crop that contains the centre of an instance.

    Args:
        crop_size: height and width in px, at most those of the image.
        image_size: height and width of the image in px.
        instance: an annotation with ``bbox`` and ``bbox_mode``.
    """
    size, limits = np.array(crop_size, np.int64), np.array(image_size, np.int64)
    if (size > limits).any():
        raise ValueError(f"a crop of {tuple(crop_size)} is larger than the image of {tuple(image_size)}")
    box = BoxMode.convert(list(instance["bbox"]), instance["bbox_mode"], BoxMode.XYXY_ABS)
    centre = np.array([box[1] + box[3], box[0] + box[2]]) / 2
    if (centre < 0).any() or (centre > limits).any():
        raise ValueError("the centre of the instance is outside the image")
    low = np.maximum(np.floor(centre).astype(np.int64) - size, 0)
    high = np.maximum(np.minimum(limits - size, np.ceil(centre).astype(np.int64)), low)
    y0, x0 = (int(np.random.randint(a, b + 1)) for a, b in zip(low, high, strict=True))
    return T.CropTransform(x0, y0, int(size[1]), int(size[0]), int(limits[1]), int(limits[0]))


def transform_instance_annotations(
    annotation: dict[str, Any],
    transforms: T.Transform | Sequence[T.Transform],
    image_size: tuple[int, int],
    *,
    keypoint_hflip_indices: np.ndarray | None = None,
) -> dict[str, Any]:
    """Apply the transforms of an image to one annotation, in place.

    Args:
        annotation: of one instance.
        transforms: the transforms of the image.
        image_size: height and width of the transformed image in px.
        keypoint_hflip_indices: for each keypoint the index of its counterpart after a horizontal flip.

    Returns:
        the annotation: ``bbox`` XYXY in px, clipped to the image; ``segmentation`` polygons, or a bitmap
        if it was RLE or a bitmap; ``keypoints`` (K, 3).
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
    """Apply the transforms of an image to the keypoints of one instance.

    Args:
        keypoints: x, y, visibility, ... in px.
        transforms: the transforms of the image.
        image_size: height and width of the transformed image in px.
        keypoint_hflip_indices: for each keypoint the index of its counterpart after a horizontal flip.

    Returns:
        float64 (K, 3); all 0 for keypoints that are unlabelled or outside the image.

    Raises:
        DataError: the image is flipped horizontally, and ``keypoint_hflip_indices`` does not fit.
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
                "the counterparts of the keypoints after a horizontal flip are unknown",
                got=f"{len(points)} keypoints and keypoint_hflip_indices {keypoint_hflip_indices}",
                expected="an index for each keypoint",
                remedy="set keypoint_names and keypoint_flip_map in the metadata, or train without flips",
            )
        points = points[np.asarray(keypoint_hflip_indices)]
    points[points[:, 2] == 0] = 0
    return points


def create_keypoint_hflip_indices(dataset_names: str | Sequence[str]) -> np.ndarray:
    """Return for each keypoint of these data sets the index of its counterpart after a horizontal flip.

    Raises:
        DataError: the data sets differ in their keypoints, or their metadata lacks them.
    """
    names = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    keypoints = check_metadata_consistency("keypoint_names", names)
    pairs = check_metadata_consistency("keypoint_flip_map", names)
    mirrored = dict(pairs) | {right: left for left, right in pairs}
    return np.array([keypoints.index(mirrored.get(name, name)) for name in keypoints], np.int64)


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> Any:
    """Return the value of ``key`` that the metadata of all these data sets share.

    Raises:
        DataError: the key is not set, or its values differ.
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
    """Convert the annotations of one image to ground-truth instances.

    Args:
        annos: as ``transform_instance_annotations`` returns them.
        image_size: height and width in px.
        mask_format: ``"polygon"`` or ``"bitmask"``.

    Returns:
        ``gt_boxes``, ``gt_classes`` and, if the annotations have them, ``gt_masks`` and ``gt_keypoints``.

    Raises:
        DataError: ``mask_format`` is ``"polygon"`` and a segmentation is a bitmap; or some annotations have
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


def annotations_to_instances_rotated(
    annos: Sequence[dict[str, Any]], image_size: tuple[int, int]
) -> Instances:
    """Convert the annotations of one image with rotated boxes to ground-truth instances.

    Args:
        annos: with ``bbox``, centre x and y, width, height and angle, and ``category_id``.
        image_size: height and width in px; boxes that are nearly horizontal are clipped to it.

    Returns:
        ``gt_boxes``, ``RotatedBoxes``, and ``gt_classes``.
    """
    boxes = np.array([anno["bbox"] for anno in annos], np.float32).reshape(-1, 5)
    rotated = RotatedBoxes(torch.from_numpy(boxes))
    rotated.clip(image_size)
    classes = torch.tensor([int(anno["category_id"]) for anno in annos], dtype=torch.int64)
    return Instances(image_size, gt_boxes=rotated, gt_classes=classes)


def _of_all(annos: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """Return the value of ``key`` of each annotation; raise DataError if only some have it."""
    having = [anno[key] for anno in annos if key in anno]
    if having and len(having) < len(annos):
        raise DataError(
            f"some instances of an image have no {key}",
            got=f"{key} of {len(having)} of {len(annos)} instances",
            expected=f"{key} of all, or of none",
            remedy=f"complete the annotations, leave out those without {key}, or train a model without",
        )
    return having


def _polygon_masks(segmentations: Sequence[Any]) -> PolygonMasks:
    kinds = sorted({type(segmentation).__name__ for segmentation in segmentations} - {"list"})
    if kinds:
        raise DataError(
            "a segmentation has no polygons",
            got=f"{', '.join(kinds)}, which RLE is converted to",
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
    """Remove instances with an empty box or mask.

    Args:
        instances: with ``gt_boxes`` and optionally ``gt_masks``.
        by_box: whether to remove empty boxes.
        by_mask: whether to remove empty masks.
        box_threshold: a box is empty unless both sides are longer, in px.
        return_mask: whether to return (R,) bool, which instances are kept, too.
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
    """Replace a record's proposals by transformed ``proposals``, in place.

    Args:
        dataset_dict: with ``proposal_boxes`` (P, 4), ``proposal_bbox_mode`` and
            ``proposal_objectness_logits`` (P,), by descending score.
        image_shape: height and width of the transformed image in px.
        transforms: the transforms of the image.
        proposal_topk: maximum number of proposals.
        min_box_size: minimum length of the sides of a proposal in px, excluded.
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
