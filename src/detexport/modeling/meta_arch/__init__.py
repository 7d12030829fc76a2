"""Meta architectures: whole models."""

from detexport.modeling.meta_arch.build import build_model
from detexport.modeling.meta_arch.fcos import FCOS, FCOSHead
from detexport.modeling.meta_arch.image_model import ImageModel
from detexport.modeling.meta_arch.panoptic_fpn import PanopticFPN
from detexport.modeling.meta_arch.proposal_network import ProposalNetwork
from detexport.modeling.meta_arch.rcnn import GeneralizedRCNN
from detexport.modeling.meta_arch.retinanet import RetinaNet
from detexport.modeling.meta_arch.semantic_seg import SemanticSegmentor, SemSegFPNHead, build_sem_seg_head
from detexport.modeling.registries import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY

__all__ = [
    "FCOS",
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "FCOSHead",
    "GeneralizedRCNN",
    "ImageModel",
    "PanopticFPN",
    "ProposalNetwork",
    "RetinaNet",
    "SemSegFPNHead",
    "SemanticSegmentor",
    "build_model",
    "build_sem_seg_head",
]
