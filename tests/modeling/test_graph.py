"""Graphs for export: what they call in place of ``forward`` must do what ``forward`` does."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.errors import ExportError
from detexport.modeling.graph import BatchGraph, ImageGraph, require_graph_methods
from small_architectures import draw, small_model


class Head(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return self.decode(value)

    def decode(self, value: Tensor) -> Tensor:
        return value


class OwnForward(Head):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * self.decode(value)


class OwnBoth(OwnForward):
    def forward(self, value: Tensor) -> Tensor:
        return 3 * self.decode(value)

    def decode(self, value: Tensor) -> Tensor:
        return value + 1


class OwnDecode(Head):
    def decode(self, value: Tensor) -> Tensor:
        return value + 1


@pytest.mark.parametrize("kind", [Head, OwnBoth, OwnDecode])
def test_a_class_whose_method_is_as_new_as_its_forward_is_accepted(kind: type[nn.Module]) -> None:
    require_graph_methods([(kind(), "forward", "decode")])


def test_a_class_that_overrides_forward_alone_is_refused_by_name() -> None:
    with pytest.raises(
        ExportError, match=r"OwnForward\.forward does; got: no decode of its own; .*remedy: write"
    ):
        require_graph_methods([(Head(), "forward", "decode"), (OwnForward(), "forward", "decode")])


def test_a_subclass_of_such_a_class_is_refused_too() -> None:
    class Later(OwnForward):
        pass

    with pytest.raises(ExportError, match=r"Later\.forward"):
        require_graph_methods([(Later(), "forward", "decode")])


def test_a_class_without_the_method_is_refused() -> None:
    with pytest.raises(ExportError, match="no decode of its own"):
        require_graph_methods([(nn.ReLU(), "forward", "decode")])


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model("retinanet").eval()


def test_a_graph_of_one_image_has_the_outputs_in_the_order_of_their_names(model: Any) -> None:
    image = draw(64, 96, 1)
    names = ("scores", "pred_classes", "pred_boxes")
    with torch.inference_mode():
        (expected,) = model.detect([image])
        found = ImageGraph(model, names)(image)
    assert len(found) == 3
    for name, value in zip(names, found, strict=True):
        assert torch.equal(value, expected[name])


def test_a_graph_of_a_batch_has_the_outputs_of_each_image_by_name(model: Any) -> None:
    images = [draw(64, 96, 1), draw(80, 48, 2)]
    with torch.inference_mode():
        expected, found = model.detect(images), BatchGraph(model)(images)
    assert len(found) == 2
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_output_that_the_model_lacks_has_no_graph(model: Any) -> None:
    with pytest.raises(KeyError, match="pred_masks"):
        ImageGraph(model, ("pred_masks",))(draw(64, 96, 1))
