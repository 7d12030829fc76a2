"""A project for detectron2: a meta architecture, which finds the peaks of a heatmap."""

import torch
from torch import nn
from torch.nn import functional as F

from detectron2.config import configurable
from detectron2.layers import Conv2d, batched_nms, nonzero_tuple
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou

from .config import add_peak_config


@META_ARCH_REGISTRY.register()
class PeakMetaArch(nn.Module):
    @configurable
    def __init__(self, *, backbone, in_feature, num_classes, topk, pixel_mean, pixel_std):
        super().__init__()
        self.backbone = backbone
        self.in_feature = in_feature
        self.topk = topk
        shape = backbone.output_shape()[in_feature]
        self.stride = shape.stride
        self.heat = Conv2d(shape.channels, num_classes, kernel_size=1)
        self.size = Conv2d(shape.channels, 2, kernel_size=1, activation=F.softplus)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        return {
            "backbone": build_backbone(cfg),
            "in_feature": cfg.MODEL.PEAK.IN_FEATURE,
            "num_classes": cfg.MODEL.PEAK.NUM_CLASSES,
            "topk": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self):
        return self.pixel_mean.device

    def forward(self, batched_inputs):
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        features = self.backbone(images.tensor)[self.in_feature]
        heat, size = self.heat(features), self.size(features)
        if self.training:
            return self.losses(heat, size, [x["instances"].to(self.device) for x in batched_inputs])
        results = [self.inference_single(h, s, i) for h, s, i in zip(heat, size, images.image_sizes)]
        return [
            {"instances": detector_postprocess(r, x.get("height", s[0]), x.get("width", s[1]))}
            for r, x, s in zip(results, batched_inputs, images.image_sizes)
        ]

    def losses(self, heat, size, targets):
        loss = heat.sum() * 0
        for one, sides, target in zip(heat, size, targets):
            centers = (target.gt_boxes.get_centers() / self.stride).long()
            truth = torch.zeros_like(one)
            truth[target.gt_classes, centers[:, 1], centers[:, 0]] = 1
            loss = loss + F.binary_cross_entropy_with_logits(one, truth)
            boxes = self.boxes_at(sides, centers[:, 1], centers[:, 0])
            loss = loss + (1 - pairwise_iou(boxes, target.gt_boxes).diagonal()).sum()
        return {"loss_peak": loss / len(targets)}

    def boxes_at(self, sides, rows, columns):
        centers = torch.stack((columns, rows), dim=1) * self.stride + self.stride / 2
        half = sides[:, rows, columns].t() * self.stride / 2
        return Boxes(torch.cat((centers - half, centers + half), dim=1))

    def inference_single(self, heat, size, image_size):
        scores = heat.sigmoid()
        peaks = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
        classes, rows, columns = nonzero_tuple(peaks & (scores > 0.1))
        boxes = self.boxes_at(size, rows, columns)
        boxes.clip(image_size)
        found = scores[classes, rows, columns]
        keep = batched_nms(boxes.tensor, found, classes, 0.5)[: self.topk]
        return Instances(image_size, pred_boxes=boxes[keep], scores=found[keep], pred_classes=classes[keep])


__all__ = ["PeakMetaArch", "add_peak_config"]
