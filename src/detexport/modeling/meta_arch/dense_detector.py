"""Base class of one-stage detectors: a backbone, and a head that predicts in every cell of its feature maps.

Shapes: N images, R anchors or points of all levels, K classes.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detexport.contract import DETECTION_OUTPUTS, Contract
from detexport.layers.alias_of import alias_of
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.structures import Boxes, Instances
from detexport.utils.events import record

NORMALIZER_MOMENTUM = 0.9
"""Momentum of the moving average of the number of foreground anchors, which normalizes the losses."""


class DenseDetector(ImageModel):
    """Base class of one-stage detectors with the focal loss.

    A subclass sets the attributes below, and adds ``detections_of`` and what ``ImageModel`` asks for.
    ``loss_normalizer`` starts at a typical number of foreground anchors in a batch.
    """

    if TYPE_CHECKING:  # TorchScript would apply an annotation that exists at run time
        backbone: Any
        num_classes: int
        score_threshold: float
        nms_threshold: float
        max_detections: int
        focal_loss_alpha: float
        focal_loss_gamma: float
        loss_normalizer: float
    head_in_features = alias_of("in_features")
    test_score_thresh = alias_of("score_threshold")
    test_topk_candidates = alias_of("topk_candidates")
    test_nms_thresh = alias_of("nms_threshold")
    max_detections_per_image = alias_of("max_detections")

    @torch.jit.unused
    def detections_of(self, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the detections of each image by field, in px of the input, for feature maps by name."""
        raise NotImplementedError(f"{type(self).__name__} has no detections_of")

    @torch.jit.unused
    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        """Return the detections of each image.

        Args:
            batched_inputs: see ``forward``.
            do_postprocess: scale and clip boxes to the output. Otherwise, return ``Instances`` in px of the
                input, not clipped to it.
        """
        images = self.preprocess_image(batched_inputs)
        found = self.detections_of(self.backbone(images.tensor))
        instances = [
            Instances(
                size,
                pred_boxes=Boxes(fields["pred_boxes"]),
                scores=fields["scores"],
                pred_classes=fields["pred_classes"],
            )
            for fields, size in zip(found, images.image_sizes, strict=True)
        ]
        if not do_postprocess:
            return instances
        return self.postprocess(instances, batched_inputs)

    @torch.jit.unused
    def update_normalizer(self, foreground: Tensor) -> float:
        """Return the moving average of the number of foreground anchors, with those of this batch.

        Args:
            foreground: (N, R) bool.
        """
        record("num_pos_anchors", lambda: foreground.sum() / len(foreground))
        self.loss_normalizer = NORMALIZER_MOMENTUM * self.loss_normalizer + (1 - NORMALIZER_MOMENTUM) * max(
            int(foreground.sum()), 1
        )
        return self.loss_normalizer

    @torch.jit.unused
    def class_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the sum of the focal losses of logits (..., K) and classes (...), K for the background."""
        return sigmoid_focal_loss(
            logits,
            F.one_hot(classes, self.num_classes + 1)[..., :-1].to(logits.dtype),
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="sum",
        )

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph."""
        return self.contract_of(
            DETECTION_OUTPUTS,
            class_names,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )
