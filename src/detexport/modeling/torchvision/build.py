"""Builders of torchvision's detection models, from a configuration or from a built model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.ssd import SSD

from detexport.config import CfgNode
from detexport.contract import ResizeRule
from detexport.errors import ConfigError
from detexport.layers import FrozenBatchNorm2d
from detexport.modeling.registries import META_ARCH_REGISTRY, Registry
from detexport.modeling.torchvision.dense import TorchvisionDense
from detexport.modeling.torchvision.detector import TorchvisionDetector, num_labels
from detexport.modeling.torchvision.options import check_options, refuse_idle_options, unfit
from detexport.modeling.torchvision.rcnn import TorchvisionRCNN
from detexport.modeling.torchvision.ssd import TorchvisionSSD

TORCHVISION_REGISTRY = Registry("torchvision detection model", "MODEL.TORCHVISION.NAME")
"""Builders of models with random parameters; their ``num_classes`` counts the background."""

for _name in torchvision.models.list_models(module=detection):
    TORCHVISION_REGISTRY.register(
        partial(torchvision.models.get_model, _name, weights=None, weights_backbone=None), name=_name
    )


@META_ARCH_REGISTRY.register(name="TorchvisionDetector")
def build_torchvision_detector(cfg: CfgNode) -> TorchvisionDetector:
    """Build the torchvision detection model that a configuration names.

    Raises:
        ConfigError: torchvision has no such model, or an option does not fit it.
    """
    refuse_idle_options(cfg)
    check_options(cfg)
    node = cfg.MODEL.TORCHVISION
    net = new_net(cfg)
    family = family_of(net)
    if node.FIRST_LABEL == 0 and family is not TorchvisionDense:
        raise unfit(node.NAME, "FIRST_LABEL", 0, "1: label 0 is its background")
    fixed_size = net.transform.fixed_size
    for key, default in (("MIN_SIZE", None), ("MAX_SIZE", None), ("NORM_EPS", None), ("FREEZE_NORM", False)):
        if fixed_size is not None and node[key] != default:
            raise unfit(
                node.NAME, key, node[key], f"{default}: SSD has a fixed size and trains all its layers"
            )
    if fixed_size is None:
        set_norm(getattr(net.backbone, "body", net.backbone), node.NORM_EPS, node.FREEZE_NORM)
        # The data mapping resizes images, also in training.
        net.transform._skip_resize = True
    return wrap_torchvision(
        net,
        first_label=node.FIRST_LABEL,
        score_threshold=node.SCORE_THRESH,
        nms_threshold=node.NMS_THRESH,
        max_detections=node.DETECTIONS_PER_IMAGE,
        min_size=node.MIN_SIZE,
        max_size=node.MAX_SIZE,
    )


def wrap_torchvision(
    net: Any,
    *,
    first_label: int = 1,
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
    max_detections: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
) -> TorchvisionDetector:
    """Wrap a torchvision detector in the interface of this package; both share the layers.

    Options that are None have the values of ``net``.

    Args:
        net: torchvision's ``FasterRCNN`` (also Mask and Keypoint R-CNN), ``RetinaNet``, ``FCOS`` or ``SSD``,
            or a subclass.
        first_label: torchvision's label of class 0; 0 for a RetinaNet or FCOS that was trained without
            background.
        score_threshold: lower bound of the scores, exclusive.
        nms_threshold: IoU threshold of NMS.
        max_detections: detections per image.
        min_size: shortest edge of a resized image in px; not for SSD, whose size is fixed.
        max_size: upper bound of the longest edge in px.
    """
    family = family_of(net)
    # The thresholds of a two-stage model's detections are those of its second stage.
    thresholds = net.roi_heads if family is TorchvisionRCNN else net
    return family(
        net,
        num_classes=num_labels(net) - first_label,
        score_threshold=_given(score_threshold, thresholds.score_thresh),
        nms_threshold=_given(nms_threshold, thresholds.nms_thresh),
        max_detections=_given(max_detections, thresholds.detections_per_img),
        first_label=first_label,
        resize=ResizeRule(0, 0)
        if net.transform.fixed_size is not None
        else ResizeRule(
            _given(min_size, net.transform.min_size[-1]), _given(max_size, net.transform.max_size)
        ),
        size_divisibility=net.transform.size_divisible,
    )


def is_torchvision(net: Any) -> bool:
    """Return whether ``net`` is a torchvision detection model that ``wrap_torchvision`` accepts."""
    return isinstance(net, detection.FasterRCNN | detection.RetinaNet | detection.FCOS | SSD)


def new_net(cfg: CfgNode) -> Any:
    """Build torchvision's model by its name or dotted path, without a download.

    Raises:
        ConfigError: there is no such model, it rejects an option, or it is no torchvision model.
    """
    node = cfg.MODEL.TORCHVISION
    options: dict[str, Any] = {}
    if node.NUM_CLASSES is not None:
        options["num_classes"] = node.NUM_CLASSES + node.FIRST_LABEL
    if node.NUM_KEYPOINTS is not None:
        if "." not in node.NAME and not node.NAME.startswith("keypointrcnn"):
            raise unfit(node.NAME, "NUM_KEYPOINTS", node.NUM_KEYPOINTS, "null: it has no keypoints")
        options["num_keypoints"] = node.NUM_KEYPOINTS
    net = TORCHVISION_REGISTRY.get(node.NAME)(**options)
    if not is_torchvision(net):
        raise ConfigError(
            "not a torchvision detection model",
            got=f"MODEL.TORCHVISION.NAME: {node.NAME}, which returns a {type(net).__name__}",
            expected="FasterRCNN, RetinaNet, FCOS, SSD, or a subclass of one of them",
            remedy="correct MODEL.TORCHVISION.NAME",
        )
    return net


def set_norm(backbone: nn.Module, eps: float | None, freeze: bool) -> None:
    """Set ``eps`` of every batch normalization in a backbone, and freeze it if requested."""
    for name, layer in list(backbone.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            if eps is not None:
                layer.eps = eps
            if freeze:
                parent, _, child = name.rpartition(".")
                frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
                setattr(backbone.get_submodule(parent), child, frozen)


def family_of(net: Any) -> Callable[..., TorchvisionDetector]:
    """Return the class that wraps ``net``."""
    if isinstance(net, detection.FasterRCNN):
        return TorchvisionRCNN
    return TorchvisionSSD if isinstance(net, SSD) else TorchvisionDense


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value
