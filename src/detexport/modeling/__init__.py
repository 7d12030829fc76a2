"""Detection models, built from a configuration: ``build_model(cfg)``.

The code is written once for every path: it runs eager, trains, traces, scripts and goes through
``torch.export``. Each module has a ``forward`` of rich values for people (``Instances``, ``ImageList``) and a
method on tensors alone that both it and the exported graph call.
"""

from detexport.modeling.backbone import FPN, ResNet, build_backbone
from detexport.modeling.meta_arch import (
    GeneralizedRCNN,
    PanopticFPN,
    ProposalNetwork,
    RetinaNet,
    SemanticSegmentor,
    TorchvisionDetector,
    build_model,
)
from detexport.modeling.point_rend import (
    ImplicitPointRendMaskHead,
    PointRendMaskHead,
    PointRendSemSegHead,
    build_point_head,
)
from detexport.modeling.proposal_generator import RPN, build_proposal_generator
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
from detexport.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads, build_roi_heads

__all__ = [
    "ANCHOR_GENERATOR_REGISTRY",
    "BACKBONE_REGISTRY",
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
    "CascadeROIHeads",
    "GeneralizedRCNN",
    "ImplicitPointRendMaskHead",
    "PanopticFPN",
    "PointRendMaskHead",
    "PointRendSemSegHead",
    "ProposalNetwork",
    "Res5ROIHeads",
    "ResNet",
    "RetinaNet",
    "SemanticSegmentor",
    "StandardROIHeads",
    "TorchvisionDetector",
    "build_backbone",
    "build_model",
    "build_point_head",
    "build_proposal_generator",
    "build_roi_heads",
]
