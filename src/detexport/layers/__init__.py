"""Layers of detection models, built on the operators of torch and torchvision."""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.layers.aspp import ASPP
from detexport.layers.batch_norm import CycleBatchNormList, NaiveSyncBatchNorm
from detexport.layers.blocks import CNNBlockBase, DepthwiseSeparableConv2d
from detexport.layers.conv import ShapeSpec
from detexport.layers.deform_conv import DeformConv, ModulatedDeformConv
from detexport.layers.losses import ciou_loss, diou_loss
from detexport.layers.mask_ops import paste_masks_in_image
from detexport.layers.nms import batched_nms, batched_nms_rotated, nms, nms_per_class, nms_rotated
from detexport.layers.norm import FrozenBatchNorm2d, get_norm
from detexport.layers.roi_align import ROIAlign, roi_align
from detexport.layers.roi_align_rotated import ROIAlignRotated, roi_align_rotated
from detexport.layers.rotated_boxes import pairwise_iou_rotated
from detexport.layers.wrappers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Linear,
    cat,
    cross_entropy,
    empty_input_loss_func_wrapper,
    interpolate,
    move_device_like,
    nonzero_tuple,
    shapes_to_tensor,
)

__all__ = [
    "ASPP",
    "BatchNorm2d",
    "CNNBlockBase",
    "Conv2d",
    "ConvTranspose2d",
    "CycleBatchNormList",
    "DeformConv",
    "DepthwiseSeparableConv2d",
    "FrozenBatchNorm2d",
    "Linear",
    "ModulatedDeformConv",
    "NaiveSyncBatchNorm",
    "ROIAlign",
    "ROIAlignRotated",
    "ShapeSpec",
    "batched_nms",
    "batched_nms_rotated",
    "cat",
    "ciou_loss",
    "cross_entropy",
    "diou_loss",
    "empty_input_loss_func_wrapper",
    "get_norm",
    "interpolate",
    "move_device_like",
    "nms",
    "nms_per_class",
    "nms_rotated",
    "nonzero_tuple",
    "pairwise_iou_rotated",
    "paste_masks_in_image",
    "roi_align",
    "roi_align_rotated",
    "shapes_to_tensor",
]
