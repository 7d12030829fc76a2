import pytest
import torch

from detexport.modeling.matcher import Matcher
from detexport.modeling.sampling import subsample_labels


def test_thresholds_belong_to_the_label_above() -> None:
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(torch.tensor([[0.0, 0.29, 0.3, 0.69, 0.7, 1.0]]))
    assert labels.tolist() == [0, 0, -1, -1, 1, 1]
    assert matches.tolist() == [0] * 6


def test_each_box_answers_for_its_best_ground_truth() -> None:
    iou = torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.8, 0.45]])
    matches, labels = Matcher([0.5], [0, 1])(iou)
    assert matches.tolist() == [0, 1, 1]
    assert labels.tolist() == [1, 1, 0]
    assert (matches.dtype, labels.dtype) == (torch.int64, torch.int8)


def test_low_quality_matches() -> None:
    iou = torch.tensor([[0.9, 0.1, 0.1, 0.0], [0.0, 0.2, 0.2, 0.1]])
    _, strict = Matcher([0.3, 0.7], [0, -1, 1])(iou)
    _, generous = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(iou)
    assert strict.tolist() == [1, 0, 0, 0]
    # Both of the second ground truth's best boxes.
    assert generous.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("low_quality", [False, True])
def test_without_ground_truth_all_is_background(low_quality: bool) -> None:
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    matches, labels = matcher(torch.zeros(0, 5))
    assert matches.tolist() == labels.tolist() == [0] * 5


def test_without_boxes_there_is_nothing_to_match() -> None:
    matches, labels = Matcher([0.5], [0, 1])(torch.zeros(2, 0))
    assert len(matches) == len(labels) == 0


def test_subsample_draws_as_many_as_asked_for() -> None:
    labels = torch.cat([torch.full((10,), 1), torch.full((100,), 5), torch.full((20,), -1)])
    positive, negative = subsample_labels(labels, 32, 0.25, bg_label=5)
    assert (len(positive), len(negative)) == (8, 24)
    assert (labels[positive] == 1).all()
    assert (labels[negative] == 5).all()
    assert len(set(positive.tolist())) == 8
    assert len(set(negative.tolist())) == 24


@pytest.mark.parametrize(
    ("foreground", "background", "drawn"),
    [(2, 100, (2, 30)), (100, 3, (8, 3)), (0, 0, (0, 0)), (0, 5, (0, 5))],
)
def test_subsample_of_too_few(foreground: int, background: int, drawn: tuple[int, int]) -> None:
    labels = torch.cat([torch.ones(foreground), torch.zeros(background), -torch.ones(4)]).long()
    assert tuple(map(len, subsample_labels(labels, 32, 0.25, bg_label=0))) == drawn
