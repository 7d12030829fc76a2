"""Detection models, built from a configuration: ``build_model(cfg)``.

The same code runs eagerly, trains, traces, scripts and goes through ``torch.export``. Each module has a
``forward`` on rich values (``Instances``, ``ImageList``), and a method on tensors that ``forward`` and the
exported graph both call.
"""

from typing import Any

from detexport.layers import ShapeSpec
from detexport.modeling.anchor_generator import DefaultAnchorGenerator, build_anchor_generator
from detexport.modeling.backbone import (
    FPN,
    Backbone,
    MViT,
    ResNet,
    ResNetBlockBase,
    SimpleFeaturePyramid,
    SwinTransformer,
    ViT,
    build_backbone,
    build_resnet_backbone,
    get_vit_lr_decay_rate,
    make_stage,
)
from detexport.modeling.box_regression import Box2BoxTransform
from detexport.modeling.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from detexport.modeling.matcher import Matcher
from detexport.modeling.meta_arch import (
    FCOS,
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    RetinaNet,
    SemanticSegmentor,
    SemSegFPNHead,
    build_model,
    build_sem_seg_head,
)
from detexport.modeling.panoptic_deeplab import PanopticDeepLab
from detexport.modeling.point_rend import (
    ImplicitPointRendMaskHead,
    PointRendMaskHead,
    PointRendSemSegHead,
    build_point_head,
)
from detexport.modeling.poolers import ROIPooler
from detexport.modeling.postprocessing import detector_postprocess
from detexport.modeling.proposal_generator import (
    RPN,
    StandardRPNHead,
    build_proposal_generator,
    build_rpn_head,
)
from detexport.modeling.registries import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    POINT_HEAD_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detexport.modeling.roi_heads import (
    BaseKeypointRCNNHead,
    BaseMaskRCNNHead,
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    KRCNNConvDeconvUpsampleHead,
    MaskRCNNConvUpsampleHead,
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_box_head,
    build_keypoint_head,
    build_mask_head,
    build_roi_heads,
)
from detexport.modeling.torchvision import TorchvisionDetector

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
    "FCOS",
    "FPN",
    "META_ARCH_REGISTRY",
    "POINT_HEAD_REGISTRY",
    "PROPOSAL_GENERATOR_REGISTRY",
    "ROI_BOX_HEAD_REGISTRY",
    "ROI_HEADS_REGISTRY",
    "ROI_KEYPOINT_HEAD_REGISTRY",
    "ROI_MASK_HEAD_REGISTRY",
    "RPN",
    "RPN_HEAD_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "Backbone",
    "BaseKeypointRCNNHead",
    "BaseMaskRCNNHead",
    "Box2BoxTransform",
    "CascadeROIHeads",
    "DatasetMapperTTA",
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "DefaultAnchorGenerator",
    "FastRCNNConvFCHead",
    "FastRCNNOutputLayers",
    "GeneralizedRCNN",
    "GeneralizedRCNNWithTTA",
    "ImplicitPointRendMaskHead",
    "KRCNNConvDeconvUpsampleHead",
    "MViT",
    "MaskRCNNConvUpsampleHead",
    "Matcher",
    "PanopticDeepLab",
    "PanopticFPN",
    "PointRendMaskHead",
    "PointRendSemSegHead",
    "ProposalNetwork",
    "ROIHeads",
    "ROIPooler",
    "Res5ROIHeads",
    "ResNet",
    "ResNetBlockBase",
    "RetinaNet",
    "SemSegFPNHead",
    "SemanticSegmentor",
    "ShapeSpec",
    "SimpleFeaturePyramid",
    "StandardROIHeads",
    "StandardRPNHead",
    "SwinTransformer",
    "TorchvisionDetector",
    "ViT",
    "build_anchor_generator",
    "build_backbone",
    "build_box_head",
    "build_keypoint_head",
    "build_mask_head",
    "build_model",
    "build_point_head",
    "build_proposal_generator",
    "build_resnet_backbone",
    "build_roi_heads",
    "build_rpn_head",
    "build_sem_seg_head",
    "detector_postprocess",
    "get_vit_lr_decay_rate",
    "make_stage",
]


def __getattr__(name: str) -> Any:
    """Import test-time augmentation on access: no other module here reads image files."""
    if name in ("DatasetMapperTTA", "GeneralizedRCNNWithTTA"):
        from detexport.modeling import test_time_augmentation

        return getattr(test_time_augmentation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
