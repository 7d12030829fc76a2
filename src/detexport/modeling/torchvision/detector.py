"""What torchvision's families share: the interface of our models over torchvision's layers.

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
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.modeling.meta_arch.inputs import gt_instances_of
from detexport.structures import BitMasks, Boxes, Instances, PolygonMasks
from detexport.structures.boxes import clip_boxes


class TorchvisionDetector(ImageModel):
    """What torchvision's families share; a subclass adds ``detect``.

    Its parameters have the names that torchvision's own model gives them.

    Args:
        net: torchvision's model.
        outputs: of the graph.
        num_classes: K.
        score_threshold: a detection's score is greater.
        nms_threshold: IoU above which the lower score of one class is dropped.
        max_detections: detections an image.
        first_label: torchvision's label of class 0.
        resize: how images are resized before the model.
        size_divisibility: images are padded to a multiple of it.
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
        # A method, not a child: the whole model over the same layers, used in training alone.
        self.torchvision_losses: Callable[..., dict[str, Tensor]] = net.forward
        self.outputs = outputs
        self.num_classes = num_classes
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.first_label = first_label

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict an image: ``image`` (3, H, W) RGB, values 0..255; ``height`` and
                ``width`` of the output in px, by default the image's own; in training ``instances`` with
                ``gt_boxes``, ``gt_classes`` from 0 and, where the model has them, ``gt_masks`` and
                ``gt_keypoints``.

        Returns:
            one dict an image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes`` (torchvision's
            label less ``first_label``: COCO's labels keep the gaps that they have in torchvision); with a
            mask head ``pred_masks`` (R, height, width) bool, pasted as for our models; with a keypoint
            head ``pred_keypoints`` (R, K, 3), x and y in px and a score. Boxes that are empty in the output
            are dropped. In training torchvision's losses by torchvision's names.

        Raises:
            InputError: an input is not what is described above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = [image.to(torch.float32) / 255 for image in self.input_images(batched_inputs)]
        instances = gt_instances_of(batched_inputs, self.device, self.num_classes)
        return self.torchvision_losses(images, [self.target(truth) for truth in instances])

    @torch.jit.unused
    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        """Detections of each image.

        Args:
            batched_inputs: see ``forward``.
            do_postprocess: scale boxes and paste masks into the output; without it the ``Instances`` are
                given as they are, in px of the input, masks as (R, 1, S, S) probabilities.
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
        """The graph that is exported: images -> detections by field, in px of each image, masks raw.

        Args:
            images: each (3, H, W), values 0..255.
        """
        raise NotImplementedError

    @torch.jit.unused
    def target(self, instances: Instances) -> dict[str, Tensor]:
        """The ground truth of an image as torchvision's losses take it."""
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
        """What the exported graph takes and gives."""
        return self.contract_of(
            self.outputs,
            class_names,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )


def as_instances(fields: dict[str, Tensor], image_size: tuple[int, int]) -> Instances:
    """The detections of one image as ``Instances``, masks (R, 1, S, S)."""
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
    """Detections of one image: clipped to it, suppressed per class, the best of them.

    Args:
        boxes: (R, 4) XYXY in px; one that is not finite is dropped.
        scores: (R,).
        classes: (R,) int64.
        image_size: height and width in px.
        nms_threshold: IoU above which the lower score of one class is dropped.
        max_detections: how many to keep.
    """
    finite = (torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)).nonzero()[:, 0]
    boxes, scores, classes = clip_boxes(boxes[finite], image_size), scores[finite], classes[finite]
    keep = nms_per_class(boxes, scores, classes, nms_threshold)[:max_detections]
    return {"pred_boxes": boxes[keep], "scores": scores[keep], "pred_classes": classes[keep]}


def num_labels(net: Any) -> int:
    """Labels of torchvision's model, with the background."""
    if isinstance(net, detection.FasterRCNN):
        return net.roi_heads.box_predictor.cls_score.out_features
    head = net.head.classification_head
    return head.num_columns if isinstance(net, SSD) else head.num_classes
