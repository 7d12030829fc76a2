"""Base class of torchvision's models: the interface of this package over torchvision's layers.

Shapes: R detections of an image, K classes without the background.
"""

from collections.abc import Callable
from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.ssd import SSD

from detexport.contract import Contract, ResizeRule, TensorSpec
from detexport.layers import nms_per_class
from detexport.modeling.meta_arch.ground_truth import gt_instances_of
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.structures import BitMasks, Boxes, Instances, PolygonMasks
from detexport.structures.boxes import clip_boxes


class TorchvisionDetector(ImageModel):
    """Base class of torchvision's models; a subclass adds ``detect``.

    The parameters have torchvision's names.

    Args:
        net: torchvision's model.
        outputs: outputs of the graph.
        num_classes: K.
        score_threshold: lower bound of the scores, exclusive.
        nms_threshold: IoU threshold of NMS.
        max_detections: detections per image.
        first_label: torchvision's label of class 0.
        resize: how images are resized before the model.
        size_divisibility: images are padded to a multiple of this, in px.
    """

    def __init__(
        self,
        net: Any,
        *,
        outputs: tuple[TensorSpec, ...],
        num_classes: int,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int,
        first_label: int,
        resize: ResizeRule,
        size_divisibility: int,
    ) -> None:
        super().__init__(
            pixel_mean=tuple(255.0 * value for value in net.transform.image_mean),
            pixel_std=tuple(255.0 * value for value in net.transform.image_std),
            input_format="RGB",
            resize=resize,
            size_divisibility=size_divisibility,
        )
        self.backbone = net.backbone
        # A bound method, no child module: torchvision's model over the same layers, for training only.
        self.torchvision_losses: Callable[..., dict[str, Tensor]] = net.forward
        self.outputs = outputs
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.first_label = first_label

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (3, H, W) RGB, values 0..255; ``height`` and
                ``width`` of the output in px, by default the image's own; in training ``instances`` with
                ``gt_boxes``, ``gt_classes`` from 0 and, where the model has them, ``gt_masks`` and
                ``gt_keypoints``.

        Returns:
            One dict per image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` (torchvision's
            label less ``first_label``, so COCO's labels keep their gaps); with a mask head ``pred_masks``
            (R, height, width) bool; with a keypoint head ``pred_keypoints`` (R, K, 3), x and y in px and a
            score. Boxes that are empty in the output are dropped. In training torchvision's losses by
            torchvision's names.

        Raises:
            InputError: an input does not match the description above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = [image.to(torch.float32) / 255 for image in self.input_images(batched_inputs)]
        instances = gt_instances_of(batched_inputs, self.device, self.num_classes)
        return self.torchvision_losses(images, [self.target(truth) for truth in instances])

    @torch.jit.unused
    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        """Return the detections of each image.

        Args:
            batched_inputs: see ``forward``.
            do_postprocess: see ``GeneralizedRCNN.inference``.
        """
        images = self.input_images(batched_inputs)
        instances = [
            as_instances(fields, (image.shape[1], image.shape[2]))
            for fields, image in zip(self.detect(images), images, strict=True)
        ]
        if not do_postprocess:
            return instances
        return self.postprocess(instances, batched_inputs)

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the raw detections of each image by field, in px of the image, as exported.

        Args:
            images: each (3, H, W), values 0..255.
        """
        raise NotImplementedError

    @torch.jit.unused
    def target(self, instances: Instances) -> dict[str, Tensor]:
        """Convert the ground truth of an image to the target of torchvision's losses."""
        target = {
            "boxes": instances.gt_boxes.tensor,
            "labels": instances.gt_classes.to(torch.int64) + self.first_label,
        }
        if instances.has("gt_masks"):
            masks = instances.gt_masks
            if isinstance(masks, PolygonMasks):
                masks = BitMasks.from_polygon_masks(masks, *instances.image_size).to(self.device)
            target["masks"] = masks.tensor.to(torch.uint8)
        if instances.has("gt_keypoints"):
            target["keypoints"] = instances.gt_keypoints.tensor
        return target

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph."""
        return self.contract_of(
            self.outputs,
            class_names,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


def as_instances(fields: dict[str, Tensor], image_size: tuple[int, int]) -> Instances:
    """Return the detections of one image as ``Instances``; masks become (R, 1, S, S)."""
    instances = Instances(image_size, **{**fields, "pred_boxes": Boxes(fields["pred_boxes"])})
    if "pred_masks" in fields:
        instances.pred_masks = fields["pred_masks"][:, None]
    return instances


def suppress(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    image_size: Tuple[int, int],
    nms_threshold: float,
    max_detections: int,
) -> Dict[str, Tensor]:
    """Select the detections of one image: clip the boxes, run NMS per class, keep the best.

    Args:
        boxes: (R, 4) XYXY in px; those that are not finite are dropped.
        scores: (R,).
        classes: (R,) int64.
        image_size: height and width in px.
        nms_threshold: IoU threshold of NMS.
        max_detections: upper bound of the number of detections.
    """
    finite = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)).nonzero()[:, 0]
    boxes, scores, classes = clip_boxes(boxes[finite], image_size), scores[finite], classes[finite]
    keep = nms_per_class(boxes, scores, classes, nms_threshold)[:max_detections]
    return {"pred_boxes": boxes[keep], "scores": scores[keep], "pred_classes": classes[keep]}


def num_labels(net: Any) -> int:
    """Return the number of labels of torchvision's model, with the background."""
    if isinstance(net, detection.FasterRCNN):
        return net.roi_heads.box_predictor.cls_score.out_features
    head = net.head.classification_head
    return head.num_columns if isinstance(net, SSD) else head.num_classes
