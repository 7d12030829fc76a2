"""What the training stage refuses before it trains."""

from typing import Any

import pytest

from detexport.config import CfgNode, get_cfg
from detexport.errors import ConfigError
from detexport.workflows.train import check_fits

SHAPES = {"keypoints": ["a", "b"], "stuff": ["x", "y", "z"], "things": ["p", "q"]}
USERS = {"keypoints": [], "stuff": [], "things": ["p", "q"]}


def config(*keys: Any) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(list(keys))
    return cfg


KEYPOINTS = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 2)
PANOPTIC = ("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4)


PROPOSALS = ("MODEL.META_ARCHITECTURE", "ProposalNetwork")
SEMANTIC = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4)


@pytest.mark.parametrize(
    ("keys", "classes"),
    [((), 2), (KEYPOINTS, 2), (PANOPTIC, 2), (PROPOSALS, 0), (SEMANTIC, 4)],
    ids=["boxes", "keypoints", "panoptic", "proposals", "semantic"],
)
def test_a_model_that_fits(keys: tuple[Any, ...], classes: int) -> None:
    check_fits(config(*keys), classes, 2, SHAPES)


@pytest.mark.parametrize(
    ("keys", "classes", "description", "message"),
    [
        ((), 3, SHAPES, "got: classes: 3; expected: 2,"),
        ((*KEYPOINTS[:2],), 2, SHAPES, "NUM_KEYPOINTS: 17; expected: 2,"),
        (KEYPOINTS, 2, USERS, "NUM_KEYPOINTS: 2; expected: 0,"),
        ((*PANOPTIC[:2],), 2, SHAPES, "then stuff\\): 54; expected: 4,"),
        (PANOPTIC, 2, USERS, "then stuff\\): 4; expected: 1,"),
        (
            ("MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
            54,
            SHAPES,
            "then stuff\\): 54; expected: 4,",
        ),
    ],
)
def test_a_model_that_does_not_fit(
    keys: tuple[Any, ...], classes: int, description: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_fits(config(*keys), classes, 2, description)
