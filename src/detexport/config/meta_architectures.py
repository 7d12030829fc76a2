"""Facts about a model that follow from its configuration, before it is built and without torch."""

from detexport.config.cfg import LAZY, CfgNode

TORCHVISION = "TorchvisionDetector"
WITH_REGIONS = ("GeneralizedRCNN", "PanopticFPN")
"""Meta architectures that pool regions."""


def pools_regions(cfg: CfgNode) -> bool:
    """Return whether the model of a configuration pools regions; torchvision's are known by their names."""
    model = cfg.MODEL
    if model.META_ARCHITECTURE == TORCHVISION:
        return "rcnn" in str(model.TORCHVISION.NAME)
    return model.META_ARCHITECTURE in WITH_REGIONS


def configured_classes(cfg: CfgNode) -> int | None:
    """Return the number of classes that a configuration gives its model; None if only the model knows."""
    model = cfg.MODEL
    if LAZY in cfg:
        return None
    groups = {
        **dict.fromkeys(WITH_REGIONS, model.ROI_HEADS),
        "RetinaNet": model.RETINANET,
        "SemanticSegmentor": model.SEM_SEG_HEAD,
    }
    group = groups.get(model.META_ARCHITECTURE)
    return None if group is None else int(group.NUM_CLASSES)
