"""Panoptic FPN: a Mask R-CNN for things and a semantic head for stuff over one feature pyramid.

Kirillov et al. 2019, arXiv:1901.02446.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List

import torch
from torch import Tensor

from detexport.config import CfgNode, configurable
from detexport.contract import Contract, PanopticRule
from detexport.errors import ConfigError
from detexport.modeling.backbone import build_backbone
from detexport.modeling.graph_segment import Segment
from detexport.modeling.meta_arch.ground_truth import gt_instances_of, gt_sem_segs_of
from detexport.modeling.meta_arch.image_model import image_options
from detexport.modeling.meta_arch.rcnn import GeneralizedRCNN
from detexport.modeling.meta_arch.semantic_seg import (
    build_sem_seg_head,
    crop_to_image,
    sem_seg_output,
    sem_seg_segments,
)
from detexport.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detexport.modeling.proposal_generator import build_proposal_generator
from detexport.modeling.registries import META_ARCH_REGISTRY
from detexport.modeling.roi_heads import build_roi_heads
from detexport.structures import Instances
from detexport.structures.model_input import output_size


@dataclass(frozen=True)
class PanopticCombination:
    """Combination of things and stuff: things by descending score, then stuff on the remaining pixels.

    Args:
        overlap_threshold: a thing is dropped if a greater fraction of its pixels is already assigned.
        stuff_area_limit: stuff of fewer pixels is dropped.
        instances_score_threshold: things with a lower score are dropped.
    """

    overlap_threshold: float
    stuff_area_limit: int
    instances_score_threshold: float

    def __call__(self, instances: Instances, classes: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        """Combine the outputs of one image.

        Args:
            instances: ``scores``, ``pred_classes`` and ``pred_masks`` (R, H, W) bool.
            classes: (H, W) class of each pixel; 0 stands for all things.

        Returns:
            (H, W) int32 segment id of each pixel, 0 for none; and one dict per segment: ``id``, ``isthing``,
            ``category_id``; for a thing also ``score`` and ``instance_id``, for stuff ``area`` in px.
        """
        panoptic = torch.zeros_like(classes, dtype=torch.int32)
        segments: list[dict[str, Any]] = []
        scores: list[float] = instances.scores.tolist()
        for index in instances.scores.argsort(descending=True).tolist():
            score = scores[index]
            if score < self.instances_score_threshold:
                break
            mask = instances.pred_masks[index]
            area = int(mask.sum())
            free = mask & (panoptic == 0)
            left = int(free.sum())
            if left == 0 or (area - left) / area > self.overlap_threshold:
                continue
            category = int(instances.pred_classes[index])
            segment = {"isthing": True, "score": score, "category_id": category, "instance_id": index}
            segments.append({"id": len(segments) + 1, **segment})
            panoptic[free] = len(segments)
        for label in classes.unique().tolist():
            free = (classes == label) & (panoptic == 0)
            area = int(free.sum())
            if label == 0 or area < self.stuff_area_limit:
                continue
            segment = {"isthing": False, "category_id": label, "area": area}
            segments.append({"id": len(segments) + 1, **segment})
            panoptic[free] = len(segments)
        return panoptic, segments


@META_ARCH_REGISTRY.register()
class PanopticFPN(GeneralizedRCNN):
    """A Mask R-CNN with a semantic head.

    Args:
        sem_seg_head: feature maps -> logits over the padded image.
        combine_overlap_thresh: see ``PanopticCombination.overlap_threshold``.
        combine_stuff_area_thresh: see ``PanopticCombination.stuff_area_limit``.
        combine_instances_score_thresh: see ``PanopticCombination.instances_score_threshold``.
        combine_on: combine the two outputs.
        instance_loss_weight: weight of the losses of the ROI heads.
        **rcnn: see ``GeneralizedRCNN``.
    """

    @configurable
    def __init__(
        self,
        *,
        sem_seg_head: Any,
        combine_overlap_thresh: float = 0.5,
        combine_stuff_area_thresh: int = 4096,
        combine_instances_score_thresh: float = 0.5,
        combine_on: bool = True,
        instance_loss_weight: float = 1.0,
        **rcnn: Any,
    ) -> None:
        super().__init__(**rcnn)
        self.sem_seg_head = sem_seg_head
        combination = PanopticCombination(
            overlap_threshold=combine_overlap_thresh,
            stuff_area_limit=int(combine_stuff_area_thresh),
            instances_score_threshold=combine_instances_score_thresh,
        )
        self.combination = combination if combine_on else None
        self.instance_loss_weight = instance_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor arguments for a configuration."""
        if not cfg.MODEL.MASK_ON:
            raise ConfigError(
                "a panoptic model needs masks",
                got="MODEL.MASK_ON: False",
                expected="MODEL.MASK_ON: True",
                remedy="set MODEL.MASK_ON: True",
            )
        node = cfg.MODEL.PANOPTIC_FPN
        images = image_options(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "sem_seg_head": build_sem_seg_head(cfg, shapes),
            "combine_overlap_thresh": node.COMBINE.OVERLAP_THRESH,
            "combine_stuff_area_thresh": node.COMBINE.STUFF_AREA_LIMIT,
            "combine_instances_score_thresh": node.COMBINE.INSTANCES_CONFIDENCE_THRESH,
            "combine_on": node.COMBINE.ENABLED,
            "instance_loss_weight": node.INSTANCE_LOSS_WEIGHT,
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "vis_period": cfg.VIS_PERIOD,
            **images,
        }

    @torch.jit.unused
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]] | dict[str, Tensor]:
        """Return instances, logits and segments of each image, or in training the losses.

        Args:
            batched_inputs: see ``GeneralizedRCNN.forward``; in training also ``sem_seg`` (H, W), the class of
                each pixel.

        Returns:
            One dict per image: ``instances`` as of a Mask R-CNN; ``sem_seg`` (K, height, width) logits; and,
            with a ``combination``, ``panoptic_seg``: see ``PanopticCombination``. In training the losses by
            name.

        Raises:
            InputError: an input does not match the description above.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = gt_instances_of(batched_inputs, self.device, self.num_classes)
        sem_seg = gt_sem_segs_of(batched_inputs, self.device)
        features = self.backbone(images.tensor)
        sem_seg_losses = self.sem_seg_head.losses(features, sem_seg)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        _, head_losses = self.roi_heads(images, features, proposals, targets)
        weighted = {name: loss * self.instance_loss_weight for name, loss in head_losses.items()}
        return {**sem_seg_losses, **proposal_losses, **weighted}

    @torch.jit.unused
    def inference(  # type: ignore[override]
        self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True
    ) -> Any:
        """Return the outputs of each image.

        Args:
            batched_inputs: see ``forward``.
            do_postprocess: return the outputs of ``forward``. Otherwise, return the ``Instances`` and the
                logits of all images in px of the input, with masks as (R, 1, S, S) probabilities.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        logits = self.sem_seg_head(features)
        proposals, _ = self.proposal_generator(images, features)
        instances, _ = self.roi_heads(images, features, proposals)
        sem_seg = [crop_to_image(one, size) for one, size in zip(logits, images.image_sizes, strict=True)]
        if not do_postprocess:
            return instances, sem_seg
        results = []
        for found, classes, example in zip(instances, sem_seg, batched_inputs, strict=True):
            size = output_size(example)
            result: dict[str, Any] = {
                "instances": detector_postprocess(found, *size),
                "sem_seg": sem_seg_postprocess(classes, found.image_size, *size),
            }
            if self.combination is not None:
                labels = result["sem_seg"].argmax(dim=0)
                result["panoptic_seg"] = self.combination(result["instances"], labels)
            results.append(result)
        return results

    def detect(self, images: List[Tensor]) -> List[Dict[str, Tensor]]:
        """Compute raw detections by field and ``sem_seg`` logits (K, H, W) of each image, as exported.

        Args:
            images: each (C, H, W), values 0..255.
        """
        batch, image_sizes = self.pad_images(
            [self.normalize(image) for image in images], self.size_divisibility
        )
        features = self.backbone(batch)
        proposals = [boxes for boxes, _ in self.proposal_generator.propose(features, image_sizes)]
        results = self.roi_heads.detect(features, proposals, image_sizes)
        logits = self.sem_seg_head(features)
        for index in range(len(image_sizes)):
            results[index]["sem_seg"] = crop_to_image(logits[index], image_sizes[index])
        return results

    @torch.jit.unused
    def segments(self) -> list[Segment]:
        """Return the segments of the detector, then those of the semantic head."""
        levels = list(self.backbone.output_shape())
        return [*super().segments(), *sem_seg_segments(self.sem_seg_head, levels)]

    @torch.jit.unused
    def contract(self, class_names: tuple[str, ...]) -> Contract:
        """Return the contract of the exported graph; ``class_names`` are those of the things."""
        contract = super().contract(class_names)
        outputs = (*contract.outputs, sem_seg_output(self.sem_seg_head.num_classes))
        panoptic = None if self.combination is None else PanopticRule(**asdict(self.combination))
        return replace(contract, outputs=outputs, panoptic=panoptic)
