"""Two-stage detectors: Faster and Mask R-CNN (Ren et al. 2015, He et al. 2017)."""

from collections.abc import Sequence
from typing import Any, Dict, List

import torch
from torch import Tensor, nn

from detexport.config import CfgNode, configurable
from detexport.contract import (
    DETECTION_OUTPUTS,
    ROTATED_DETECTION_OUTPUTS,
    Contract,
    ResizeRule,
    TensorSpec,
    keypoint_output,
    mask_output,
)
from detexport.errors import ConfigError, InputError
from detexport.modeling.backbone import backbone_segments, build_backbone, padding_of
from detexport.modeling.graph import GraphMethods
from detexport.modeling.graph_segment import Segment
from detexport.modeling.meta_arch.ground_truth import gt_instances_of
from detexport.modeling.meta_arch.image_model import (
    ImageModel,
    image_options,
    preprocess_segment,
)
from detexport.modeling.proposal_generator import build_proposal_generator, proposal_segments
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.modeling.roi_heads import ROIHeads, build_roi_heads, roi_head_segments
from detexport.structures import ImageList, Instances
from detexport.utils.events import get_event_storage, is_recorded

SHOWN_PROPOSALS = 20
"""Proposals in an image of a training."""


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageModel):
    """A backbone, a proposal generator and ROI heads.

    Args:
        backbone: image -> feature maps.
        proposal_generator: feature maps -> proposals; None if the inputs contain the proposals.
        roi_heads: proposals -> detections.
        pixel_mean: see ``ImageModel``.
        pixel_std: see ``ImageModel``.
        input_format: order of the image's channels, ``"BGR"`` (the default) or ``"RGB"``.
        vis_period: iterations between two calls of ``visualize_training`` in training; 0 for none.
        resize: see ``ImageModel``.
    """

    __jit_unused_properties__ = ["device", "num_classes"]  # noqa: RUF012 - TorchScript reads this list

    @configurable
    def __init__(
        self,
        *,
        backbone: Any,
        proposal_generator: Any,
        roi_heads: Any,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        vis_period: int = 0,
        resize: ResizeRule | None = None,
    ) -> None:
        super().__init__(
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
            resize=resize,
            **padding_of(backbone),
        )
        self.vis_period = vis_period
        if (
            getattr(proposal_generator, "box_dim", 4) != getattr(roi_heads, "box_dim", 4)
            and proposal_generator
        ):
            raise ConfigError(
                "the proposals do not fit the ROI heads: only one of them has rotated boxes",
                got=f"{type(proposal_generator).__name__} and {type(roi_heads).__name__}",
                expected="RRPN with RROIHeads, or neither",
                remedy="correct MODEL.PROPOSAL_GENERATOR.NAME or MODEL.ROI_HEADS.NAME",
            )
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "vis_period": cfg.VIS_PERIOD,
            **image_options(cfg),
        }

    @property
    def num_classes(self) -> int:
        """Number of classes, without the background."""
        return self.roi_heads.num_classes

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the detections of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own;
                in training, ``instances`` with the ground truth; without a proposal generator, ``proposals``,
                ``Instances`` with ``proposal_boxes`` in px of the image.

        Returns:
            One dict per image: ``instances`` with ``pred_boxes``, ``scores``, ``pred_classes``; with a
            mask head ``pred_masks`` (R, height, width) bool; with a keypoint head ``pred_keypoints``
            (R, K, 3), x and y in px and a score, and ``pred_keypoint_heatmaps``, logits over the box. In
            training the losses by name.

        Raises:
            InputError: an input does not match the description above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = gt_instances_of(batched_inputs, self.device, self.num_classes)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.propose(batched_inputs, images, features, targets)
        _, head_losses = self.roi_heads(images, features, proposals, targets)
        if is_recorded(self.vis_period):
            self.visualize_training(batched_inputs, proposals)
        return {**head_losses, **proposal_losses}

    @torch.jit.unused
    def visualize_training(self, batched_inputs: list[dict[str, Any]], proposals: list[Instances]) -> None:
        """Record the first image twice: with its ground truth, and with its best proposals.

        Args:
            batched_inputs: of a training.
            proposals: of each image, in descending order.
        """
        from detexport.data.detection_utils import convert_image_to_rgb
        from detexport.utils.visualizer import Visualizer

        image = convert_image_to_rgb(batched_inputs[0]["image"].permute(1, 2, 0), self.input_format)
        halves = []
        for boxes in (batched_inputs[0]["instances"].gt_boxes, proposals[0].proposal_boxes[:SHOWN_PROPOSALS]):
            drawn = Visualizer(image).overlay_instances(
                boxes=boxes.to("cpu"), assigned_colors=["g"] * len(boxes)
            )
            halves.append(torch.from_numpy(drawn.get_image().transpose(2, 0, 1).copy()))
        get_event_storage().put_image("training/ground truth and proposals", torch.cat(halves, dim=2))

    @torch.jit.unused
    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """Return the detections of each image.

        Args:
            batched_inputs: see ``forward``.
            detected_instances: boxes that are detected already, ``pred_boxes`` in px of the input and
                ``pred_classes`` of each image; only their masks and keypoints are predicted then.
            do_postprocess: scale boxes and paste masks into the output. Otherwise, return ``Instances`` in px
                of the input, with masks as (R, 1, S, S) probabilities.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.propose(batched_inputs, images, features)
            instances, _ = self.roi_heads(images, features, proposals)
        else:
            given = [one.to(self.device) for one in detected_instances]
            instances = self.roi_heads.forward_with_given_boxes(features, given)
        if not do_postprocess:
            return instances
        return self.postprocess(instances, batched_inputs)

    @torch.jit.unused
    def propose(
        self,
        batched_inputs: list[dict[str, Any]],
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return the proposals of each image, predicted or from the inputs, and in training their losses.

        Raises:
            InputError: without a proposal generator, an input lacks ``proposals`` of its image size.
        """
        if self.proposal_generator is not None:
            return self.proposal_generator(images, features, targets)
        proposals = []
        for index, (example, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            if "proposals" not in example:
                raise InputError(
                    f"input {index} has no proposals, and the model has no proposal generator",
                    got=f"keys {sorted(example)}",
                    expected="'proposals', Instances with proposal_boxes",
                    remedy="give proposals with each image, or set MODEL.PROPOSAL_GENERATOR.NAME",
                )
            brought = example["proposals"]
            if tuple(brought.image_size) != tuple(size):
                raise InputError(
                    f"the proposals of input {index} have another image size",
                    got=f"(height, width) {tuple(brought.image_size)}",
                    expected=f"{tuple(size)}, as the image",
                    remedy="transform the proposals with the image",
                )
            proposals.append(brought.to(self.device))
        return proposals, {}

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the raw detections of each image by field, in px of the image, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, image_sizes = self.pad_images(
            [self.normalize(image) for image in images], self.size_divisibility
        )
        features = self.backbone(batch)
        proposals = [boxes for boxes, _ in self.proposal_generator.propose(features, image_sizes)]
        return self.roi_heads.detect(features, proposals, image_sizes)

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the methods of model, proposal generator and ROI heads that the graph replaces."""
        methods = super().graph_methods()
        if self.proposal_generator is not None:
            methods.append((self.proposal_generator, "forward", "propose"))
        if isinstance(self.roi_heads, ROIHeads):
            return [*methods, *self.roi_heads.graph_methods()]
        return [*methods, (self.roi_heads, "forward", "detect")]

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image, the backbone, the proposals and the ROI heads."""
        levels = list(self.backbone.output_shape())
        return [
            preprocess_segment(self),
            *backbone_segments(self.backbone),
            *proposal_segments(self.proposal_generator, levels),
            *roi_head_segments(self.roi_heads, levels, [spec.name for spec in self.detection_outputs()]),
        ]

    @torch.jit.unused
    def detection_outputs(self) -> tuple[TensorSpec, ...]:
        """Return the raw outputs of the ROI heads."""
        if getattr(self.roi_heads, "box_dim", 4) == 5:
            return ROTATED_DETECTION_OUTPUTS
        outputs: tuple[TensorSpec, ...] = DETECTION_OUTPUTS
        if self.roi_heads.mask_on:
            outputs = (*outputs, mask_output(self.roi_heads.mask_head.resolution))
        if self.roi_heads.keypoint_on:
            outputs = (*outputs, keypoint_output(self.roi_heads.keypoint_head.num_keypoints))
        return outputs

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph.

        Raises:
            ConfigError: the model has no proposal generator.
        """
        self.require_graph()
        predictor = self.roi_heads.final_predictor()
        return self.contract_of(
            self.detection_outputs(),
            class_names,
            score_threshold=predictor.score_threshold,
            nms_threshold=predictor.nms_threshold,
            max_detections=predictor.max_detections,
        )

    @torch.jit.unused
    def image_graph(self, output_names: tuple[str, ...]) -> nn.Module:
        """Return the graph from one image to a tuple of tensors, for tracing and ``torch.export``.

        Raises:
            ConfigError: the model has no proposal generator.
        """
        self.require_graph()
        return super().image_graph(output_names)

    @torch.jit.unused
    def batch_graph(self) -> nn.Module:
        """Return the graph from images of different sizes to the detections of each by field, for scripting.

        Raises:
            ConfigError: the model has no proposal generator.
        """
        self.require_graph()
        return super().batch_graph()

    @torch.jit.unused
    def require_graph(self) -> None:
        """Check that the model predicts its proposals: the only inputs of a graph are images.

        Raises:
            ConfigError: the model has no proposal generator.
        """
        if self.proposal_generator is None:
            raise ConfigError(
                "a model without a proposal generator cannot be exported",
                got="MODEL.PROPOSAL_GENERATOR.NAME: PrecomputedProposals",
                expected="a proposal generator, such as RPN",
                remedy="run it eagerly, or export a model with a proposal generator",
            )
