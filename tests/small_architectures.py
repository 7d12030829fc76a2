"""Every architecture small, with random weights, and images with ground truth for all of them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detexport.config.cfg import CfgNode, load_cfg
from detexport.modeling import build_model
from detexport.structures import BitMasks, Boxes, Instances, Keypoints

CONFIG = Path(__file__).parents[1] / "conf/detectron2/mask_rcnn.yaml"
NUM_CLASSES = 5
SEM_SEG = {"MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_CLASSES, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32}
# What each changes in the Mask R-CNN's configuration.
OVERRIDES: dict[str, dict[str, Any]] = {
    "faster_rcnn": {"MODEL.MASK_ON": False},
    "mask_rcnn": {},
    "keypoint_rcnn": {
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": True,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [32],
    },
    "mask_rcnn_c4": {  # nothing is padded
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[16, 32, 64]],
        "MODEL.RPN.IN_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    },
    "cascade_rcnn": {
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    "pointrend": {
        "MODEL.ROI_MASK_HEAD.NAME": "PointRendMaskHead",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "",
        "MODEL.ROI_MASK_HEAD.IN_FEATURES": ["p2"],
        "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON": True,
        "MODEL.ROI_MASK_HEAD.FC_DIM": 32,
        "MODEL.POINT_HEAD.NUM_CLASSES": NUM_CLASSES,
        "MODEL.POINT_HEAD.IN_FEATURES": ["p2"],
        "MODEL.POINT_HEAD.FC_DIM": 16,
        "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 2,
        "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": 196,
    },
    "fast_rcnn": {"MODEL.MASK_ON": False, "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"},
    "retinanet": {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.RETINANET.NUM_CLASSES": NUM_CLASSES,
        "MODEL.RETINANET.NUM_CONVS": 1,
    },
    "proposal_network": {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.MASK_ON": False},
    "semantic_segmentor": {"MODEL.META_ARCHITECTURE": "SemanticSegmentor", **SEM_SEG},
    "panoptic_fpn": {"MODEL.META_ARCHITECTURE": "PanopticFPN", **SEM_SEG},
}


def small_cfg(name: str) -> CfgNode:
    cfg = load_cfg(CONFIG)
    overrides = {"MODEL.RESNETS.DEPTH": 18, **OVERRIDES[name]}
    cfg.merge_from_list([part for item in overrides.items() for part in item])
    return cfg


def small_model(name: str) -> Any:
    torch.manual_seed(0)
    return build_model(small_cfg(name))


def ground_truth(height: int = 64, width: int = 96) -> Instances:
    """Two rectangles with masks and keypoints."""
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9]]) * torch.tensor(
        [width, height, width, height]
    )
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    corners = torch.stack((boxes[:, :2], boxes[:, 2:], boxes[:, [0, 3]]), dim=1)
    visible = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    return Instances(
        (height, width),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor([0, 3]),
        gt_masks=BitMasks(masks),
        gt_keypoints=Keypoints(torch.cat((corners, visible[..., None]), dim=2)),
    )


def example(height: int = 64, width: int = 96, seed: int = 0) -> dict[str, Any]:
    """All that any of the architectures takes, to train or to detect."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 80, (3, height, width), generator=generator, dtype=torch.uint8)
    image[:, height // 4 : height // 2, width // 4 : width // 2] = 200
    instances = ground_truth(height, width)
    proposals = Instances(
        (height, width), proposal_boxes=instances.gt_boxes.clone(), objectness_logits=torch.tensor([2.0, 1.0])
    )
    return {
        "image": image,
        "instances": instances,
        "sem_seg": torch.randint(0, NUM_CLASSES, (height, width), generator=generator),
        "proposals": proposals,
    }


def draw(height: int, width: int, seed: int) -> Tensor:
    """Draw a bright rectangle on noise: uint8 (3, height, width), different for each seed."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 80, (3, height, width), generator=generator, dtype=torch.uint8)
    image[:, height // 4 : height // 2, width // 4 : width // 2] = 40 * seed % 255
    return image
