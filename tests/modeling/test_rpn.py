import pytest
import torch
from torchvision.ops import box_iou

from detexport.modeling.anchor_generator import AnchorGrid
from detexport.modeling.box_regression import Box2BoxTransform
from detexport.modeling.matcher import Matcher
from detexport.modeling.proposal_generator.rpn import RPN, RPNHead
from detexport.structures import Boxes, ImageList, Instances


def rpn(**changes: object) -> RPN:
    torch.manual_seed(0)
    head = RPNHead(in_channels=4, num_anchors=1)
    for layer in (head.objectness_logits, head.anchor_deltas):
        torch.nn.init.normal_(layer.weight, std=0.3)
    options = {
        "in_features": ("p2", "p3"),
        "head": head,
        "anchor_generator": AnchorGrid(sizes=[[16], [32]], aspect_ratios=[[1.0]], strides=[4, 8], offset=0.0),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "batch_size_per_image": 16,
        "positive_fraction": 0.5,
        "pre_nms_topk": (40, 20),
        "post_nms_topk": (30, 10),
        "nms_thresh": 0.7,
        "min_box_size": 0.0,
        "anchor_boundary_thresh": -1,
        "smooth_l1_beta": 0.0,
        "loss_weight": 1.0,
    }
    return RPN(**{**options, **changes}).eval()


def features(height: int = 8, width: int = 12, images: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "p2": torch.randn(images, 4, height, width, generator=generator),
        "p3": torch.randn(images, 4, max(1, height // 2), max(1, width // 2), generator=generator),
    }


def test_proposals_descend_lie_in_the_image_and_overlap_little() -> None:
    module = rpn(nms_thresh=0.3, post_nms_topk=(30, 12))
    sizes = [(32, 48), (20, 30)]
    for (boxes, scores), (height, width) in zip(module.propose(features(), sizes), sizes, strict=True):
        assert 0 < len(boxes) <= 12
        assert (scores.diff() <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    # Suppression is within a level: with one level all of them are apart.
    alone = rpn(nms_thresh=0.3, post_nms_topk=(30, 12))
    alone.in_features = ["p2"]
    ((boxes, _),) = alone.propose(features(images=1), [(32, 48)])
    assert (box_iou(boxes, boxes).fill_diagonal_(0) <= 0.3).all()


def test_topk_is_of_each_level() -> None:
    module = rpn(pre_nms_topk=(40, 5), post_nms_topk=(30, 1000), nms_thresh=1.0)
    logits, deltas, anchors = module.predict_anchors(features(images=1))
    assert [len(a) for a in anchors] == [96, 24]
    ((boxes, scores),) = module.find_proposals(anchors, logits, deltas, [(1000, 1000)])
    assert len(boxes) <= 10
    best = torch.cat([level[0].topk(5).values for level in logits])
    assert set(scores.tolist()) <= set(best.tolist())
    assert scores[0] == best.max()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 5)])
def test_fewer_anchors_than_topk(size: tuple[int, int]) -> None:
    module = rpn(nms_thresh=1.0)
    ((boxes, scores),) = module.propose(features(*size, images=1), [(1000, 1000)])
    anchors = size[0] * size[1] + max(1, size[0] // 2) * max(1, size[1] // 2)
    assert 0 < len(boxes) == len(scores) <= min(10, anchors)
    assert (scores > -1e8).all()


def test_numbers_that_are_not_finite_are_no_proposals() -> None:
    module = rpn()
    logits, deltas, anchors = module.predict_anchors(features(images=1))
    logits[0][0, 3], deltas[0][0, 4, 0], deltas[1][0, 2, 3] = torch.nan, torch.inf, torch.nan
    ((boxes, scores),) = module.find_proposals(anchors, logits, deltas, [(32, 48)])
    assert len(boxes)
    assert torch.isfinite(boxes).all()
    assert torch.isfinite(scores).all()


def test_training_takes_more_proposals_than_testing() -> None:
    counts = [
        len(module.propose(features(images=1), [(320, 480)])[0][0])
        for module in (rpn(nms_thresh=0.99), rpn(nms_thresh=0.99).train())
    ]
    assert counts == [10, 30]


def test_labels_and_losses() -> None:
    module = rpn().train()
    maps = features()
    _, _, anchors = module.predict_anchors(maps)
    truth = torch.cat(anchors)[[20, 100]] + 0.5
    images = ImageList(torch.zeros(2, 3, 32, 48), [(32, 48), (32, 48)])
    targets = [
        Instances((32, 48), gt_boxes=Boxes(truth)),
        Instances((32, 48), gt_boxes=Boxes(torch.zeros(0, 4))),
    ]
    labels, gt_boxes = module.label_and_sample_anchors(anchors, targets, images.image_sizes)
    assert labels[0][20] == labels[0][100] == 1
    assert torch.equal(gt_boxes[0][[20, 100]], truth)
    assert (labels[0] >= 0).sum() == 16
    assert (labels[1] == 1).sum() == 0
    assert (labels[1] == 0).sum() == 16
    _, losses = module(images, maps, targets)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_anchors_beyond_the_boundary_are_not_learnt_from() -> None:
    module = rpn(anchor_boundary_thresh=0)
    _, _, anchors = module.predict_anchors(features(images=1))
    target = Instances((32, 48), gt_boxes=Boxes(torch.zeros(0, 4)))
    ((labels,), _) = module.label_and_sample_anchors(anchors, [target], [(32, 48)])
    inside = Boxes(torch.cat(anchors)).inside_box((32, 48))
    assert (labels[~inside] == -1).all()
    assert (labels == 0).any()


def test_training_needs_ground_truth() -> None:
    images = ImageList(torch.zeros(2, 3, 32, 48), [(32, 48), (32, 48)])
    with pytest.raises(ValueError, match="gt_instances"):
        rpn().train()(images, features())


def test_key_names_of_one_and_several_convolutions() -> None:
    assert "conv.weight" in RPNHead(in_channels=4, num_anchors=1).state_dict()
    several = RPNHead(in_channels=4, num_anchors=1, conv_dims=(-1, 8)).state_dict()
    assert {"conv.conv0.weight", "conv.conv1.bias", "objectness_logits.weight"} <= set(several)
    assert several["anchor_deltas.weight"].shape == (4, 8, 1, 1)
