"""Code that works with Instances, compiled: a model of one's own, and ours inside of it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.errors import ExportError
from detexport.export import scripting_with_instances
from detexport.export.scripting_with_instances import from_scripted
from detexport.modeling import build_model
from detexport.structures import Boxes, Instances

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
ROOT = Path(__file__).parents[2]
FIELDS = {"proposal_boxes": Boxes, "objectness_logits": Tensor}
DETECTIONS = {"pred_boxes": Boxes, "scores": Tensor, "pred_classes": Tensor, "pred_masks": Tensor}


class Proposer(nn.Module):
    """A model of somebody's own: sets, reads, selects and passes on fields."""

    def forward(self, boxes: Tensor) -> list[Instances]:
        found = Instances((40, 50), objectness_logits=boxes.sum(dim=1))
        found.proposal_boxes = Boxes(boxes)
        found.proposal_boxes.clip(found.image_size)
        return [self.better(found), found]

    def better(self, found: Instances) -> Instances:
        wide = found.proposal_boxes.nonempty(1.0) & (found.objectness_logits > 0)
        return found[wide]


@pytest.fixture
def boxes() -> Tensor:
    corners = torch.rand(7, 2, generator=torch.Generator().manual_seed(3)) * 30
    return torch.cat([corners, corners + torch.arange(7.0)[:, None] * 8 - 4], dim=1)


def assert_same(actual: Instances, expected: Instances) -> None:
    assert tuple(actual.image_size) == tuple(expected.image_size)
    assert set(actual.get_fields()) == set(expected.get_fields())
    for name, value in expected.get_fields().items():
        other = actual.get(name)
        assert type(other) is type(value)
        pair = [getattr(one, "tensor", one) for one in (other, value)]
        assert torch.equal(*pair), name


def test_a_model_of_ones_own_gives_the_same(boxes: Tensor, tmp_path: Path) -> None:
    model = Proposer().eval()
    scripted = scripting_with_instances(model, FIELDS)
    scripted.save(str(tmp_path / "model.pt"))
    for one in (scripted, torch.jit.load(tmp_path / "model.pt")):
        for few in (boxes, boxes[:1], boxes[:0]):
            for actual, expected in zip(one(few), model(few), strict=True):
                assert_same(from_scripted(actual), expected)


def test_what_a_scripted_instance_can(boxes: Tensor) -> None:
    (better, found) = scripting_with_instances(Proposer().eval(), FIELDS)(boxes)
    assert len(found) == 7
    assert 0 < len(better) < 7
    assert found.has("proposal_boxes")
    assert not found.has("scores")
    assert torch.equal(found.objectness_logits, boxes.sum(dim=1))
    found.set("objectness_logits", boxes[:, 0])
    assert torch.equal(found.to(torch.device("cpu")).get_fields()["objectness_logits"], boxes[:, 0])


def test_the_classes_are_as_before_and_other_fields_can_follow(boxes: Tensor) -> None:
    class Scorer(nn.Module):
        def forward(self, boxes: Tensor) -> Instances:
            found = Instances((1, 1))
            found.scores = boxes[:, 0]
            return found

    before = (dict(vars(Instances)), dict(vars(Boxes)))
    scripting_with_instances(Proposer().eval(), FIELDS)
    other = scripting_with_instances(Scorer().eval(), {"scores": Tensor})
    assert torch.equal(other(boxes).scores, boxes[:, 0])
    assert (dict(vars(Instances)), dict(vars(Boxes))) == before
    assert Proposer()(boxes)[1].proposal_boxes.tensor.shape == (7, 4)


def test_a_field_that_was_not_declared_is_named(boxes: Tensor) -> None:
    with pytest.raises(ExportError, match="proposal_boxes"):
        scripting_with_instances(Proposer().eval(), {"objectness_logits": Tensor})
    assert scripting_with_instances(Proposer().eval(), FIELDS)(boxes), "the failure left nothing behind"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scores": int}, "scores: <class 'int'>"),
        ({}, "no field"),
        *(({name: Tensor}, f"got: {name}: ") for name in ("a b", "class", "image_size", "to", "self", "_a")),
    ],
)
def test_fields_that_cannot_be_declared(fields: dict, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        scripting_with_instances(Proposer().eval(), fields)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ExportError, match="training mode"):
        scripting_with_instances(Proposer(), FIELDS)


@pytest.fixture(scope="module")
def mask_rcnn() -> nn.Module:
    cfg = load_cfg(ROOT / "conf/detectron2/mask_rcnn.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    load_weights(model, read_state_dict(ROOT / "checkpoints/mask_rcnn.safetensors"), "mask_rcnn")
    return model


def image(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


class Wrapper(nn.Module):
    """As detectron2's users wrap a model to script it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        return [found.get_fields() for found in self.model.inference(inputs, do_postprocess=False)]


@torch.no_grad()
def test_a_detector_gives_its_instances(mask_rcnn: nn.Module) -> None:
    inputs = [{"image": image(160, 200)}, {"image": image(130, 97, seed=1)}]
    expected = mask_rcnn.inference(copy.copy(inputs), do_postprocess=False)
    assert sum(map(len, expected)) > 0
    scripted = scripting_with_instances(mask_rcnn, DETECTIONS)
    for actual, eager in zip(scripted(inputs), expected, strict=True):
        assert_same(from_scripted(actual), eager)
    wrapper = Wrapper(mask_rcnn).eval()
    for fields, eager in zip(scripting_with_instances(wrapper, DETECTIONS)(inputs), expected, strict=True):
        assert torch.equal(fields["pred_boxes"], eager.pred_boxes.tensor)
        assert torch.equal(fields["pred_masks"], eager.pred_masks)
    assert wrapper.model is mask_rcnn


def test_a_detectors_fields_must_all_be_declared(mask_rcnn: nn.Module) -> None:
    with pytest.raises(ExportError, match="declare pred_masks too"):
        scripting_with_instances(mask_rcnn, {k: v for k, v in DETECTIONS.items() if k != "pred_masks"})
