"""DeepLabV3 and V3+ (Chen et al. 2017, arXiv:1706.05587; 2018, arXiv:1802.02611)."""

from detexport.modeling.deeplab.backbone import DeepLabStem, build_resnet_deeplab_backbone
from detexport.modeling.deeplab.sem_seg_head import DeepLabV3Head, DeepLabV3PlusHead

__all__ = ["DeepLabStem", "DeepLabV3Head", "DeepLabV3PlusHead", "build_resnet_deeplab_backbone"]
