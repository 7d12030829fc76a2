"""Precomputed proposals: a model without a generator takes them from its inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detexport.config.cfg import load_cfg
from detexport.errors import ConfigError, InputError
from detexport.modeling import build_model
from detexport.structures import BitMasks, Boxes, Instances
from small_architectures import draw, example, small_model

CONFIG = Path(__file__).parents[2] / "conf/detectron2/mask_rcnn.yaml"
NAMES = ("pred_boxes", "scores", "pred_classes", "pred_masks")
IMAGES = [draw(64, 96, 0), draw(33, 65, 1)]


@pytest.fixture(scope="module")
def fast_rcnn() -> Any:
    torch.manual_seed(0)
    cfg = load_cfg(CONFIG)
    cfg.merge_from_list(["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", "MODEL.RESNETS.DEPTH", 18])
    return build_model(cfg).eval()


def brought(image: Tensor) -> Instances:
    boxes = Boxes([[2, 2, 30, 30], [10, 8, 60, 40], [0, 0, 90, 60]])
    return Instances(tuple(image.shape[1:]), proposal_boxes=boxes, objectness_logits=torch.zeros(3))


def test_a_model_without_a_generator_takes_its_proposals_from_the_inputs(fast_rcnn: Any) -> None:
    image = IMAGES[0]
    fast_rcnn.roi_heads.box_predictor.score_threshold = 0.0
    with torch.no_grad():
        (found,) = fast_rcnn([{"image": image, "proposals": brought(image)}])
        (none,) = fast_rcnn([{"image": image, "proposals": brought(image)[:0]}])
    assert 0 < len(found["instances"]) <= 15
    assert len(none["instances"]) == 0
    with pytest.raises(ValueError, match="input 1 has no proposals"):
        fast_rcnn([{"image": image, "proposals": brought(image)}, {"image": image}])
    with pytest.raises(ValueError, match=r"got: .*\(33, 65\); expected: \(64, 96\)"):
        fast_rcnn([{"image": image, "proposals": brought(IMAGES[1])}])


def test_a_model_without_a_generator_learns(fast_rcnn: Any) -> None:
    image = IMAGES[0]
    truth = Instances(
        (64, 96),
        gt_boxes=Boxes([[4, 2, 30, 30]]),
        gt_classes=torch.tensor([1]),
        gt_masks=BitMasks(torch.ones(1, 64, 96)),
    )
    losses = fast_rcnn.train()([{"image": image, "proposals": brought(image), "instances": truth}])
    fast_rcnn.eval()
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert fast_rcnn.roi_heads.box_head.fc1.weight.grad.any()


def test_a_model_without_a_generator_has_no_graph(fast_rcnn: Any) -> None:
    for ask in (
        fast_rcnn.batch_graph,
        lambda: fast_rcnn.image_graph(NAMES),
        lambda: fast_rcnn.contract(tuple("abcde")),
    ):
        with pytest.raises(ConfigError, match="without a proposal generator cannot be exported"):
            ask()


def test_proposals_that_are_missing_or_of_another_image() -> None:
    model = small_model("fast_rcnn")
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(InputError, match="input 1 has no proposals"):
            model([example(), {key: value for key, value in example().items() if key != "proposals"}])
        with pytest.raises(InputError, match="proposals of input 1 have another image size"):
            model([example(), {**example(), "proposals": example(height=32)["proposals"]}])


def test_there_is_no_generator(fast_rcnn: Any) -> None:
    assert fast_rcnn.proposal_generator is None
    assert not any(name.startswith("proposal_generator") for name in fast_rcnn.state_dict())
