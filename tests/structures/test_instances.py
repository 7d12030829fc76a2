import copy

import pytest
import torch

from detexport.structures import BitMasks, Boxes, Instances


@pytest.fixture
def three() -> Instances:
    return Instances(
        (10, 20),
        pred_boxes=Boxes([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        names=["a", "b", "c"],
    )


def test_fields_by_attribute_keyword_and_name(three: Instances) -> None:
    three.pred_classes = torch.tensor([1, 2, 3])
    assert three.has("pred_classes")
    assert three.get("pred_classes") is three.pred_classes
    assert sorted(three.get_fields()) == ["names", "pred_boxes", "pred_classes", "scores"]
    three.remove("pred_classes")
    assert not three.has("pred_classes")
    with pytest.raises(AttributeError, match="names"):
        _ = three.pred_classes


def test_all_fields_have_one_length(three: Instances) -> None:
    with pytest.raises(ValueError, match="'more' has 2 entries, the others have 3"):
        three.more = torch.zeros(2)
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))


def test_indexing_reaches_every_field(three: Instances) -> None:
    assert three[0].names == ["a"]
    assert three[-1].names == three[2].names == ["c"]
    assert three[-3].names == ["a"]
    assert three[1:].scores.tolist() == pytest.approx([0.8, 0.7])
    chosen = three[torch.tensor([True, False, True])]
    assert (len(chosen), chosen.names, chosen.image_size) == (2, ["a", "c"], (10, 20))
    assert three[torch.tensor([2, 0])].names == ["c", "a"]
    assert len(three[torch.zeros(3, dtype=torch.bool)]) == 0
    for outside in (3, -4):
        with pytest.raises(IndexError):
            three[outside]


def test_cat_concatenates_every_kind_of_field(three: Instances) -> None:
    three.masks = BitMasks(torch.ones(3, 10, 20))
    joined = Instances.cat([three, three[:1]])
    assert joined.names == ["a", "b", "c", "a"]
    assert [len(value) for value in joined.get_fields().values()] == [4] * 4
    assert isinstance(joined.pred_boxes, Boxes)
    assert isinstance(joined.masks, BitMasks)


def test_cat_refuses_instances_that_do_not_match(three: Instances) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Instances.cat([])
    with pytest.raises(ValueError, match="image sizes"):
        Instances.cat([three, Instances((5, 5), names=[])])
    with pytest.raises(TypeError, match="'size'"):
        Instances.cat([Instances((5, 5), size="ab")] * 2)


def test_to_moves_fields_and_keeps_the_original(three: Instances) -> None:
    moved = three.to("meta")
    assert moved.scores.device.type == moved.pred_boxes.device.type == "meta"
    assert moved.names == ["a", "b", "c"]
    assert three.scores.device.type == "cpu"


def test_copies_are_independent(three: Instances) -> None:
    twin = copy.deepcopy(three)
    twin.scores[0] = 0
    twin.remove("names")
    assert three.scores[0] == pytest.approx(0.9)
    assert three.has("names")
    assert "image_height=10, image_width=20" in repr(three)


def test_the_image_size_is_constant_and_private_names_are_no_fields(three: Instances) -> None:
    with pytest.raises(AttributeError, match="image size"):
        three.image_size = (5, 5)
    three._note = "of one length more"
    assert three._note == "of one length more"
    assert not three.has("_note")


def test_sizes_of_any_type_are_compared() -> None:
    two = [Instances([4, 6], scores=torch.ones(n)) for n in (1, 2)]  # type: ignore[arg-type]
    assert len(Instances.cat(two)) == 3
