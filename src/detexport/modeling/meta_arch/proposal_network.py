"""A model that predicts class-agnostic proposals only (Ren et al. 2015)."""

from typing import Any, Dict, List

import torch
from torch import Tensor

from detexport.config import CfgNode, configurable
from detexport.contract import Contract, TensorSpec
from detexport.modeling.backbone import backbone_segments, build_backbone, padding_of
from detexport.modeling.graph import GraphMethods
from detexport.modeling.graph_segment import Segment
from detexport.modeling.meta_arch.ground_truth import gt_instances_of
from detexport.modeling.meta_arch.image_model import ImageModel, image_options, preprocess_segment
from detexport.modeling.postprocessing import detector_postprocess
from detexport.modeling.proposal_generator import build_proposal_generator, proposal_segments
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.structures import Instances
from detexport.structures.model_input import output_size

OUTPUTS = (
    TensorSpec("proposal_boxes", "float32", ("R", 4), "x0, y0, x1, y1 in px of the input image"),
    TensorSpec("objectness_logits", "float32", ("R",), "logit of holding an object, descending"),
)


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageModel):
    """A backbone and a proposal generator.

    Args:
        backbone: image -> feature maps.
        proposal_generator: feature maps -> proposals.
        **image_options: see ``ImageModel``.
    """

    @configurable
    def __init__(self, *, backbone: Any, proposal_generator: Any, **image_options: Any) -> None:
        super().__init__(**padding_of(backbone), **image_options)
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        # Proposals have no classes.
        self.num_classes = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        images = image_options(cfg)
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            **images,
        }

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return the proposals of each image, or in training the losses.

        Args:
            batched_inputs: one dict per image: ``image`` (C, H, W), values 0..255 in the order of
                ``input_format``; ``height`` and ``width`` of the output in px, by default the image's own;
                ``instances`` with ``gt_boxes`` in training.

        Returns:
            One dict per image: ``proposals`` with ``proposal_boxes`` and ``objectness_logits``. In training
            the losses by name.

        Raises:
            InputError: an input does not match the description above.
        """
        images = self.preprocess_image(batched_inputs)
        targets = None
        if self.training:
            targets = gt_instances_of(batched_inputs, self.device, num_classes=0)
        proposals, losses = self.proposal_generator(images, self.backbone(images.tensor), targets)
        if self.training:
            return losses
        return [
            {"proposals": postprocess_proposals(found, *output_size(example))}
            for found, example in zip(proposals, batched_inputs, strict=True)
        ]

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute the proposals of each image by field, in px of the image, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, image_sizes = self.pad_images(
            [self.normalize(image) for image in images], self.size_divisibility
        )
        results: List[Dict[str, Tensor]] = []
        for boxes, logits in self.proposal_generator.propose(self.backbone(batch), image_sizes):
            results.append({"proposal_boxes": boxes, "objectness_logits": logits})
        return results

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the image, the backbone and the proposals."""
        return [
            preprocess_segment(self),
            *backbone_segments(self.backbone),
            *proposal_segments(self.proposal_generator, list(self.backbone.output_shape())),
        ]

    @torch.jit.unused
    def graph_methods(self) -> GraphMethods:
        """Return the methods of the model and the proposal generator that the graph replaces."""
        return [*super().graph_methods(), (self.proposal_generator, "forward", "propose")]

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph; it has no score threshold."""
        generator = self.proposal_generator
        return self.contract_of(
            OUTPUTS,
            class_names,
            score_threshold=0.0,
            nms_threshold=generator.nms_threshold,
            max_detections=generator.post_nms_topk_test,
        )


def postprocess_proposals(proposals: Instances, output_height: int, output_width: int) -> Instances:
    """Rescale proposals to the size of the output; drop those whose clipped box is empty."""
    return detector_postprocess(proposals, output_height, output_width)
