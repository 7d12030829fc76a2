import torch

from detexport.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detexport.structures import Boxes, Instances, RotatedBoxes

BOXES = torch.tensor(
    [
        [3.2, 4.1, 17.9, 21.5],
        [-6.0, -4.5, 11.0, 9.0],  # reaches beyond the image
        [20.0, 20.0, 60.0, 70.0],
        [0.0, 0.0, 40.0, 30.0],
        [7.3, 7.4, 7.9, 7.8],  # within one pixel
        [-20.0, 5.0, -3.0, 9.0],  # outside
    ]
)


def results() -> Instances:
    return Instances(
        (30, 40),
        pred_boxes=Boxes(BOXES),
        scores=torch.linspace(0.9, 0.4, 6),
        pred_classes=torch.arange(6),
        pred_masks=torch.ones(6, 1, 28, 28),
    )


def test_boxes_are_scaled_clipped_and_dropped_with_all_fields() -> None:
    before = results()
    found = detector_postprocess(before, 60, 20)
    assert found.image_size == (60, 20)
    assert found.pred_classes.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(found.pred_boxes.tensor[0], BOXES[0] * torch.tensor([0.5, 2, 0.5, 2]))
    assert found.pred_boxes.tensor[1].tolist() == [0, 0, 5.5, 18]
    assert found.pred_masks.shape == (5, 60, 20)
    # The input is as it was.
    assert torch.equal(before.pred_boxes.tensor, BOXES)
    assert before.pred_masks.shape == (6, 1, 28, 28)
    assert before.image_size == (30, 40)


def test_without_masks_and_without_detections() -> None:
    boxes_only = results()
    boxes_only.remove("pred_masks")
    assert not detector_postprocess(boxes_only, 30, 40).has("pred_masks")
    nothing = detector_postprocess(results()[:0], 25, 35)
    assert len(nothing) == 0
    assert nothing.pred_masks.shape == (0, 25, 35)


def test_keypoints_are_scaled_and_heatmaps_are_not() -> None:
    found = results()
    found.pred_keypoints = torch.ones(6, 2, 3)
    found.pred_keypoint_heatmaps = torch.ones(6, 2, 8, 8)
    scaled = detector_postprocess(found, 90, 80)
    assert torch.equal(scaled.pred_keypoints, torch.tensor([2.0, 3.0, 1.0]).expand(5, 2, 3))
    assert torch.equal(scaled.pred_keypoint_heatmaps, torch.ones(5, 2, 8, 8))
    assert torch.equal(found.pred_keypoints, torch.ones(6, 2, 3))


def test_rotated_boxes_and_proposals_are_scaled_too() -> None:
    rotated = RotatedBoxes([[10, 10, 4, 2, 30.0], [5, 5, 0, 2, 30.0]])
    found = detector_postprocess(
        Instances((20, 20), pred_boxes=rotated, scores=torch.tensor([0.9, 0.8])), 40, 40
    )
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[20.0, 20, 8, 4, 30]]))
    proposals = Instances((20, 20), proposal_boxes=Boxes([[0, 0, 10, 30]]), objectness_logits=torch.zeros(1))
    assert detector_postprocess(proposals, 40, 10).proposal_boxes.tensor.tolist() == [[0, 0, 5, 40]]


def test_semantic_logits_are_cropped_and_resized() -> None:
    logits = torch.zeros(2, 8, 8)
    logits[1, :4, :6] = 1
    resized = sem_seg_postprocess(logits, (4, 6), 8, 12)
    assert resized.shape == (2, 8, 12)
    assert (resized[1] == 1).all()
