"""Test-time augmentation: a detector run on several views of an image, whose detections are merged."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.data.detection_utils import read_image
from detexport.data.transforms import (
    HFlipTransform,
    NoOpTransform,
    RandomFlip,
    ResizeShortestEdge,
    ResizeTransform,
    TransformList,
    apply_augmentations,
)
from detexport.errors import ConfigError, ExportError, InputError
from detexport.modeling.meta_arch.rcnn import GeneralizedRCNN
from detexport.modeling.postprocessing import detector_postprocess
from detexport.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detexport.structures import Boxes, Instances

LOWEST_SCORE = 1e-8
"""Lower bound of the merged scores, exclusive: the model has applied its own threshold to each view."""

Example = dict[str, Any]


class DatasetMapperTTA:
    """A mapper from one input of a detector to its views: each size, and each flipped.

    Args:
        min_sizes: lengths of the shortest edge of the views, in px.
        max_size: greatest length of the longest edge, in px.
        flip: also return the horizontal flip of each size.
    """

    @configurable
    def __init__(self, min_sizes: Sequence[int], max_size: int, flip: bool) -> None:
        self.min_sizes = list(min_sizes)
        self.max_size = max_size
        self.flip = flip

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        node = cfg.TEST.AUG
        return {"min_sizes": node.MIN_SIZES, "max_size": node.MAX_SIZE, "flip": node.FLIP}

    def __call__(self, dataset_dict: Example) -> list[Example]:
        """Return the views in the order size, flipped size, next size.

        Args:
            dataset_dict: ``image`` (C, H, W) uint8, ``height`` and ``width`` of the output in px.

        Returns:
            For each view the same dict with its ``image``, and ``transforms``, from px of the output to px of
            the view.
        """
        image = dataset_dict["image"].permute(1, 2, 0).cpu().numpy()
        output = (dataset_dict["height"], dataset_dict["width"])
        own: Any = NoOpTransform()
        if image.shape[:2] != output:
            own = ResizeTransform(*output, *image.shape[:2])
        views = []
        for size in self.min_sizes:
            resize = ResizeShortestEdge(size, self.max_size)
            for augmentations in ([resize], [resize, RandomFlip(prob=1.0)])[: 2 if self.flip else 1]:
                pixels, transforms = apply_augmentations(augmentations, np.copy(image))
                view = {key: copy.copy(value) for key, value in dataset_dict.items() if key != "image"}
                view["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
                view["transforms"] = TransformList([own]) + transforms
                views.append(view)
        return views


class GeneralizedRCNNWithTTA(nn.Module):
    """A two-stage detector of boxes and masks with test-time augmentation, in eager mode.

    Detections of all views are mapped to the output, and NMS runs per class. Masks are predicted in each
    view for the merged boxes, and averaged.

    Args:
        cfg: the configuration of the model.
        model: the detector.
        tta_mapper: maps an input to its views: see ``DatasetMapperTTA``, the default.
        batch_size: number of views per forward pass.

    Raises:
        ConfigError: the model is no ``GeneralizedRCNN``, predicts keypoints, or takes proposals.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[Example], list[Example]] | None = None,
        batch_size: int = 3,
    ) -> None:
        super().__init__()
        if not isinstance(model, GeneralizedRCNN) or cfg.MODEL.KEYPOINT_ON or cfg.MODEL.LOAD_PROPOSALS:
            raise ConfigError(
                "test-time augmentation supports two-stage detectors of boxes and masks",
                got=f"{type(model).__name__}, MODEL.KEYPOINT_ON: {cfg.MODEL.KEYPOINT_ON}, "
                f"MODEL.LOAD_PROPOSALS: {cfg.MODEL.LOAD_PROPOSALS}",
                expected="a GeneralizedRCNN with both False",
                remedy="run the model itself, or choose another one",
            )
        self.cfg = cfg.clone()
        self.model = model
        self.tta_mapper = DatasetMapperTTA(cfg) if tta_mapper is None else tta_mapper
        self.batch_size = batch_size

    def forward(self, batched_inputs: list[Example]) -> list[dict[str, Instances]]:
        """Return the merged detections of each image.

        Args:
            batched_inputs: see ``GeneralizedRCNN.forward``; an input without ``image`` has a ``file_name``.
        """
        return [self._inference_one_image(self._with_image(example)) for example in batched_inputs]

    def _with_image(self, example: Example) -> Example:
        example = dict(example)
        if "image" not in example:
            if "file_name" not in example:
                raise InputError(
                    "an input has no image",
                    got=f"keys {sorted(example)}",
                    expected="image or file_name",
                    remedy="give one of them with each input",
                )
            pixels = read_image(example["file_name"], self.model.input_format)
            example["image"] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        example.setdefault("height", example["image"].shape[1])
        example.setdefault("width", example["image"].shape[2])
        return example

    def _inference_one_image(self, example: Example) -> dict[str, Instances]:
        size = (example["height"], example["width"])
        views = self.tta_mapper(example)
        transforms = [view.pop("transforms") for view in views]
        with _without_masks(self.model.roi_heads):
            found = self._batch_inference(views)
        merged = self._merge_detections(found, transforms, size)
        if not self.cfg.MODEL.MASK_ON:
            return {"instances": merged}
        given = [_in_view(merged, view, one) for view, one in zip(views, transforms, strict=True)]
        with_masks = self._batch_inference(views, given)
        masks = [
            one.pred_masks.flip(dims=[3]) if _is_flipped(transform) else one.pred_masks
            for one, transform in zip(with_masks, transforms, strict=True)
        ]
        merged.pred_masks = torch.stack(masks).mean(dim=0)
        return {"instances": detector_postprocess(merged, *size)}

    def _batch_inference(self, views: list[Example], given: list[Instances] | None = None) -> list[Instances]:
        """Return the detections of each view in its px; those ``given`` completed by masks."""
        outputs: list[Instances] = []
        for start in range(0, len(views), self.batch_size):
            part = slice(start, start + self.batch_size)
            boxes = None if given is None else given[part]
            outputs += self.model.inference(views[part], boxes, do_postprocess=False)
        return outputs

    def _merge_detections(
        self, found: list[Instances], transforms: list[TransformList], size: tuple[int, int]
    ) -> Instances:
        """Map the detections of all views to an output of ``size``, and suppress them per class."""
        boxes = torch.cat(
            [
                _moved(transform.inverse(), one.pred_boxes.tensor)
                for one, transform in zip(found, transforms, strict=True)
            ]
        )
        scores = torch.cat([one.scores for one in found])
        classes = torch.cat([one.pred_classes for one in found])
        per_class = scores.new_zeros(len(boxes), self.model.num_classes + 1)
        per_class[torch.arange(len(boxes), device=boxes.device), classes] = scores
        (merged,), _ = fast_rcnn_inference(
            [boxes],
            [per_class],
            [size],
            LOWEST_SCORE,
            self.cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            self.cfg.TEST.DETECTIONS_PER_IMAGE,
        )
        return merged

    def _refuse_export(self) -> NoReturn:
        raise ExportError(
            "GeneralizedRCNNWithTTA cannot be exported",
            got="several passes over views of an image",
            expected="a model with one pass",
            remedy="export the model that it wraps; compare with test-time augmentation in eager mode only",
        )

    def contract(self, class_names: tuple[str, ...]) -> NoReturn:
        """Raise ExportError: there is no graph."""
        self._refuse_export()

    def image_graph(self, output_names: tuple[str, ...]) -> NoReturn:
        """Raise ExportError: there is no graph."""
        self._refuse_export()

    def batch_graph(self) -> NoReturn:
        """Raise ExportError: there is no graph."""
        self._refuse_export()


def _in_view(merged: Instances, view: Example, transform: TransformList) -> Instances:
    """Return merged detections in px of a view."""
    boxes = Boxes(_moved(transform, merged.pred_boxes.tensor))
    height, width = view["image"].shape[1:]
    return Instances(
        (height, width), pred_boxes=boxes, pred_classes=merged.pred_classes, scores=merged.scores
    )


def _moved(transform: Any, boxes: Tensor) -> Tensor:
    """Return boxes (R, 4) after a transform."""
    return torch.from_numpy(transform.apply_box(boxes.cpu().numpy())).to(boxes)


def _is_flipped(transform: TransformList) -> bool:
    return any(isinstance(one, HFlipTransform) for one in transform.transforms)


@contextmanager
def _without_masks(roi_heads: Any) -> Iterator[None]:
    """Let ROI heads predict no masks within the block."""
    mask_head = roi_heads.mask_head if roi_heads.mask_on else None
    if mask_head is None:
        yield
        return
    roi_heads.mask_head = None
    try:
        yield
    finally:
        roi_heads.mask_head = mask_head
