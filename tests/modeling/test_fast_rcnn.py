import pytest
import torch

from detexport.errors import ConfigError
from detexport.layers import ShapeSpec
from detexport.modeling.box_regression import Box2BoxTransform
from detexport.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, federated_classes, select_detections
from detexport.structures import Boxes, Instances

SIZE = (100, 200)
FAR = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0], [100.0, 0.0, 110.0, 10.0]])


def select(boxes: torch.Tensor, scores: torch.Tensor, threshold: float = 0.5, most: int = 100) -> tuple:
    if boxes.dim() == 2:
        boxes = boxes[:, None]
    found, kept, classes = select_detections(boxes, scores, SIZE, threshold, 0.5, most)
    return found.tolist(), kept.tolist(), classes.tolist()


def test_one_proposal_gives_several_classes() -> None:
    scores = torch.tensor([[0.6, 0.9, 0.1]])
    boxes, kept, classes = select(FAR[:1], scores)
    assert boxes == [[0, 0, 10, 10]] * 2
    assert kept == pytest.approx([0.9, 0.6])
    assert classes == [1, 0]


def test_each_class_has_its_own_box() -> None:
    boxes, _, classes = select(FAR[None], torch.tensor([[0.7, 0.8, 0.9]]))
    assert boxes == FAR.flip(0).tolist()
    assert classes == [2, 1, 0]


def test_the_threshold_is_strict() -> None:
    score = torch.tensor([[0.5], [torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))], [0.4]])
    assert select(FAR, score)[0] == [FAR[1].tolist()]


def test_suppression_is_within_a_class() -> None:
    near = FAR[:1] + torch.tensor([[0.0], [1.0]])
    assert select(near, torch.tensor([[0.9, 0.0], [0.8, 0.0]]))[2] == [0]
    assert select(near, torch.tensor([[0.9, 0.0], [0.0, 0.8]]))[2] == [0, 1]


@pytest.mark.parametrize(("most", "count"), [(2, 2), (0, 0), (-1, 3), (3, 3), (9, 3)])
def test_the_best_of_them(most: int, count: int) -> None:
    _, kept, _ = select(FAR, torch.tensor([[0.6], [0.8], [0.7]]), most=most)
    assert kept == pytest.approx([0.8, 0.7, 0.6][:count])


def test_boxes_are_clipped() -> None:
    boxes, _, _ = select(torch.tensor([[-5.0, 90.0, 300.0, 120.0]]), torch.tensor([[0.9]]))
    assert boxes == [[0, 90, 200, 100]]


def test_numbers_that_are_not_finite_are_no_detections() -> None:
    boxes = FAR.clone()
    boxes[0, 0], boxes[1, 2] = torch.nan, torch.inf
    scores = torch.tensor([[0.9], [0.9], [0.9]])
    assert select(boxes, scores)[0] == [FAR[2].tolist()]
    scores[2] = torch.nan
    assert select(boxes, scores)[0] == []


def test_a_proposal_with_a_number_that_is_not_finite_gives_no_detection_at_all() -> None:
    boxes, scores = FAR.repeat(2, 1, 1), torch.tensor([[0.9, 0.9, 0.9], [0.9, 0.8, 0.7]])
    boxes[0, 2, 0] = torch.inf
    assert select(boxes, scores)[1] == pytest.approx([0.9, 0.8, 0.7])
    scores[1, 0] = torch.nan
    assert select(boxes, scores)[1] == []


@pytest.mark.parametrize("proposals", [0, 2])
def test_nothing_is_found(proposals: int) -> None:
    boxes, scores, classes = select_detections(
        torch.zeros(proposals, 3, 4), torch.zeros(proposals, 3), SIZE, 0.5, 0.5, 10
    )
    assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))
    assert classes.dtype == torch.int64


def layers(**changes: object) -> FastRCNNOutputLayers:
    torch.manual_seed(0)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    return FastRCNNOutputLayers(ShapeSpec(8), box2box_transform=transform, num_classes=3, **changes)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("proposals", [0, 1, 5])
def test_detections_of_any_number_of_proposals(proposals: int, agnostic: bool) -> None:
    module = layers(cls_agnostic_bbox_reg=agnostic)
    logits, deltas = module(torch.randn(proposals, 8, 1, 1))
    assert logits.shape == (proposals, 4)
    assert deltas.shape == (proposals, 4 if agnostic else 12)
    corner = torch.rand(proposals, 2) * 50
    boxes, scores, _ = module.detect(logits, deltas, torch.cat([corner, corner + 20], dim=1), SIZE)
    assert (len(scores) > 0) == (proposals > 0)
    assert len(boxes) == len(scores)


def test_probabilities_leave_the_background_out() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(layers().probabilities(logits), logits.softmax(1)[:, :3])
    assert torch.equal(layers(use_sigmoid_ce=True).probabilities(logits), logits.sigmoid()[:, :3])


@pytest.mark.parametrize("changes", [{}, {"use_sigmoid_ce": True}, {"cls_agnostic_bbox_reg": True}])
def test_losses(changes: dict[str, bool]) -> None:
    module = layers(loss_weight={"loss_box_reg": 2.0}, **changes)
    outputs = module(torch.randn(4, 8))
    proposals = Instances(
        SIZE,
        proposal_boxes=Boxes(FAR[[0, 1, 2, 2]]),
        gt_boxes=Boxes(FAR[[0, 1, 2, 2]] + 1),
        gt_classes=torch.tensor([0, 2, 3, 3]),
    )
    losses = module.losses(outputs, [proposals[:1], proposals[1:]])
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2)  # a shift of 1 px in boxes of 10 px, times 10
    if changes.get("cls_agnostic_bbox_reg"):
        predicted = outputs[1][:2]
    else:
        predicted = torch.stack([outputs[1][0, 0:4], outputs[1][1, 8:12]])
    torch.testing.assert_close(losses["loss_box_reg"], (predicted - targets).abs().sum() / 4 * 2)
    if not changes.get("use_sigmoid_ce"):
        expected = -outputs[0].log_softmax(1)[range(4), [0, 2, 3, 3]].mean()
        torch.testing.assert_close(losses["loss_cls"], expected)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_losses_without_proposals_have_gradients() -> None:
    module = layers()
    empty = Instances(
        SIZE,
        proposal_boxes=Boxes([]),
        gt_boxes=Boxes([]),
        gt_classes=torch.zeros(0, dtype=torch.int64),
    )
    losses = module.losses(module(torch.zeros(0, 8)), [empty])
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()


def test_boxes_of_the_true_classes() -> None:
    """The background's proposals have some class's box; nothing is learnt from these."""
    predictor = layers()
    deltas = torch.zeros(3, 3, 4)
    deltas[0, 1, 0] = deltas[2, 2, 1] = 10.0  # by a side
    proposals = [
        Instances(SIZE, proposal_boxes=Boxes(FAR[:1]), gt_classes=torch.tensor([1])),
        Instances(SIZE, proposal_boxes=Boxes(FAR[1:]), gt_classes=torch.tensor([0, 3])),
    ]
    first, second = predictor.predict_boxes_for_gt_classes((torch.zeros(3, 4), deltas.flatten(1)), proposals)
    assert first.tolist() == [[10, 0, 20, 10]]
    assert second.tolist() == [[50, 50, 60, 60], [100, 10, 110, 20]]
    shared = torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 3)
    together = layers(cls_agnostic_bbox_reg=True).predict_boxes_for_gt_classes((shared, shared), proposals)
    assert torch.equal(torch.cat(together), FAR)


def foreground() -> Instances:
    return Instances(
        SIZE,
        proposal_boxes=Boxes(FAR),
        gt_boxes=Boxes(FAR + 1),
        gt_classes=torch.tensor([0, 2, 3]),
    )


@pytest.mark.parametrize("agnostic", [False, True])
def test_boxes_predicted_for_the_true_classes(agnostic: bool) -> None:
    module = layers(cls_agnostic_bbox_reg=agnostic)
    proposals = foreground()
    deltas = torch.randn(3, 4 if agnostic else 12)
    found = module.predict_boxes_for_gt_classes((torch.zeros(3, 4), deltas), [proposals[:1], proposals[1:]])
    assert [len(boxes) for boxes in found] == [1, 2]
    all_boxes = module.decode(deltas, FAR).reshape(3, -1, 4)
    columns = [0, 0] if agnostic else [0, 2]
    expected = torch.stack([all_boxes[0, columns[0]], all_boxes[1, columns[1]]])
    torch.testing.assert_close(torch.cat(found)[:2], expected)


def test_a_box_loss_of_overlap() -> None:
    module = layers(box_reg_loss_type="giou")
    outputs = (torch.zeros(3, 4), torch.zeros(3, 12))
    # Two boxes of 10 px, each 1 px beside the truth; the third proposal is background.
    intersection, union = 81.0, 119.0
    giou = intersection / union - (121 - union) / 121
    loss = module.losses(outputs, [foreground()])["loss_box_reg"]
    assert float(loss) == pytest.approx(2 * (1 - giou) / 3, rel=1e-4)


def test_a_federated_loss_is_over_the_classes_that_are_there_and_some_others() -> None:
    module = layers(use_sigmoid_ce=True, use_fed_loss=True, fed_loss_num_classes=3)
    logits, classes = torch.randn(4, 4), torch.tensor([0, 3, 3, 0])
    with pytest.raises(ConfigError, match=r"USE_FED_LOSS: True.*set_class_frequencies"):
        module.class_loss(logits, classes)
    module.set_class_frequencies(torch.tensor([9, 0, 4]))
    assert module.fed_loss_cls_weights is not None
    assert module.fed_loss_cls_weights.tolist() == [3, 0, 2]
    # Class 0 is there, class 1 is in no image, so class 2 is the only other; with the background, three.
    target = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[:, [0, 2]], target, reduction="sum"
    )
    torch.testing.assert_close(module.class_loss(logits, classes), expected / 4)


def test_classes_of_a_federated_loss_are_drawn_by_weight() -> None:
    torch.manual_seed(0)
    weights = torch.tensor([1.0, 5.0, 1e-6, 5.0, 5.0])
    for _ in range(20):
        drawn = federated_classes(torch.tensor([0, 0, 5]), weights, 4)
        assert len(drawn) == len(drawn.unique()) == 3
        assert drawn[0] == 0
        assert set(drawn[1:].tolist()) <= {1, 3, 4}
    assert federated_classes(torch.tensor([1, 2, 3]), weights, 2).tolist() == [1, 2, 3]


def proposals_of(boxes: list[list[list[float]]]) -> list[Instances]:
    return [Instances(SIZE, proposal_boxes=Boxes(one)) for one in boxes]


@pytest.mark.parametrize("agnostic", [False, True])
def test_inference_on_instances_is_that_of_the_graph(agnostic: bool) -> None:
    module = layers(test_score_thresh=0.1, test_nms_thresh=0.4, cls_agnostic_bbox_reg=agnostic)
    torch.nn.init.normal_(module.cls_score.weight, std=1.0)
    proposals = proposals_of([[[0, 0, 10, 10], [0, 1, 10, 11], [20, 20, 30, 45]], [[5, 5, 25, 15]]])
    predictions = module(torch.randn(4, 8))
    instances, kept = module.inference(predictions, proposals)
    start = 0
    for one, found, indices in zip(proposals, instances, kept, strict=True):
        rows = slice(start, start + len(one))
        expected = module.detect(predictions[0][rows], predictions[1][rows], one.proposal_boxes.tensor, SIZE)
        actual = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        probabilities = module.predict_probs(predictions, proposals)[0 if start == 0 else 1]
        assert torch.equal(probabilities[indices, found.pred_classes], found.scores)
        start += len(one)


def test_predictions_by_image() -> None:
    module = layers()
    proposals = proposals_of([[[0, 0, 10, 10], [0, 1, 10, 11]], [[5, 5, 25, 15]]])
    predictions = module(torch.randn(3, 8))
    boxes = module.predict_boxes(predictions, proposals)
    assert [one.shape for one in boxes] == [(2, 12), (1, 12)]
    probabilities = module.predict_probs(predictions, proposals)
    assert [one.shape for one in probabilities] == [(2, 4), (1, 4)]
    torch.testing.assert_close(probabilities[0].sum(dim=1), torch.ones(2))


def test_the_weight_of_both_losses() -> None:
    proposals = Instances(
        SIZE,
        proposal_boxes=Boxes(FAR[[0, 1]]),
        gt_boxes=Boxes(FAR[[0, 1]] + 1),
        gt_classes=torch.tensor([0, 3]),
    )
    features = torch.randn(2, 8)
    plain, weighted = layers(), layers(loss_weight=3.0)
    expected = plain.losses(plain(features), [proposals])
    for name, loss in weighted.losses(weighted(features), [proposals]).items():
        torch.testing.assert_close(loss, expected[name] * 3)
    with pytest.raises(ConfigError, match="unknown losses"):
        layers(loss_weight={"loss_mask": 1.0})
