"""The parts of a segment's declaration: its tensors, its modules, and whose declaration holds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detexport.contract import TensorSpec
from detexport.modeling.graph_segment import (
    IMAGE_PORT,
    DenseHead,
    Kind,
    Layers,
    NamedMaps,
    Port,
    Segment,
    by_name,
    declared_segments,
    dense_maps,
    maps,
    model_segments,
    not_cut,
    own_methods,
    raw_outputs,
    rows,
    size_of,
)
from small_architectures import draw, small_model


def test_a_free_axis_has_a_name_and_a_fixed_one_its_size() -> None:
    spec = Port("p2", (2, 3)).spec(torch.zeros(1, 256, 7, 9))
    assert spec == TensorSpec("p2", "float32", (1, 256, "p2.2", "p2.3"), "")
    assert Port("classes", (0,)).spec(torch.zeros(4, dtype=torch.int64)).dtype == "int64"
    assert Port("scalar", ()).spec(torch.zeros(())).shape == ()


def test_ports_are_free_in_what_depends_on_the_image() -> None:
    assert maps("a", "b") == (Port("a", (2, 3)), Port("b", (2, 3)))
    assert rows("boxes") == (Port("boxes", (0,)),)
    assert raw_outputs(["scores", "sem_seg"]) == (Port("scores", (0,)), Port("sem_seg", (1, 2)))
    assert Port("image", (1, 2)) == IMAGE_PORT


def test_a_dense_heads_outputs_are_listed_output_by_output() -> None:
    names = [port.name for port in dense_maps(["p3", "p4"])]
    assert names == ["logits_p3", "logits_p4", "deltas_p3", "deltas_p4"]
    three = [port.name for port in dense_maps(["p3"], ("logits", "deltas", "centerness"))]
    assert three == ["logits_p3", "deltas_p3", "centerness_p3"]


class Declares(nn.Module):
    def segments(self, name: str = "own") -> list[Segment]:
        return [Segment(name, nn.Identity(), maps("a"), maps("b"))]


class Silent(Declares):
    """Computes something else, perhaps."""


class Repeats(Declares):
    segments = Declares.segments


def test_a_declaration_holds_for_its_own_class_and_for_one_that_repeats_it() -> None:
    assert [one.name for one in declared_segments(Declares(), "given")] == ["given"]
    assert [one.name for one in declared_segments(Repeats())] == ["own"]
    assert declared_segments(Silent()) == declared_segments(nn.ReLU()) == []


def test_a_model_that_declares_nothing_is_one_segment() -> None:
    model: Any = small_model("retinanet").eval()
    model.__class__ = type("Mine", (type(model),), {})
    names = ("scores", "pred_classes")
    (segment,) = model_segments(model, names)
    assert (segment.name, segment.kind, segment.note) == ("model", Kind.OUTPUTS, not_cut("the model", model))
    assert segment.note == "the model is one segment: Mine is not cut further"
    image = draw(64, 96, 1)
    with torch.inference_mode():
        found, (expected,) = segment.module([image]), model.detect([image])
    assert all(torch.equal(value, expected[name]) for name, value in zip(names, found, strict=True))


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet", "semantic_segmentor", "panoptic_fpn"])
def test_segments_in_order_compute_what_the_model_computes(name: str) -> None:
    model = small_model(name).eval()
    names, image = model.contract(()).output_names, draw(64, 96, 1)
    with torch.inference_mode():
        (expected,) = model.detect([image])
        known = {IMAGE_PORT.name: image}
        segments = model_segments(model, names)
        for segment in segments:
            values = segment.module([known[port.name] for port in segment.inputs])
            known |= {port.name: value for port, value in zip(segment.outputs, values, strict=True)}
    assert len(segments) > 3
    for output in names:
        torch.testing.assert_close(known[output], expected[output])


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.factor = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), 2.0

    def forward(self, value: Tensor) -> Tensor:
        return self.conv(value)

    def decode(self, value: Tensor) -> Tensor:
        return self.norm(value) * self.factor


def test_a_copy_for_its_methods_has_the_kept_layers_alone() -> None:
    decoder = Decoder().eval()
    copied = own_methods(decoder, "norm")
    value = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(copied.decode(value), decoder.decode(value))
    assert [name for name, _ in copied.named_parameters()] == ["norm.weight", "norm.bias"]
    assert isinstance(copied, Decoder)
    assert type(copied).__name__ == "Decoder"
    with pytest.raises(NotImplementedError, match="Decoder is here for its methods alone"):
        copied(value)
    assert decoder(value).shape == (1, 3, 2, 2)


def test_modules_map_lists_of_tensors_to_lists() -> None:
    value = torch.rand(1, 3, 4, 5)
    assert torch.equal(Layers(nn.ReLU())([value - 0.5])[0], (value - 0.5).relu())

    class Network(nn.Module):
        def forward(self, given: Tensor) -> dict[str, Tensor]:
            return {"p2": given, "p3": given * 2, "unused": given * 3}

    p3, p2 = NamedMaps(Network(), ["p3", "p2"])([value])
    assert torch.equal(p2, value)
    assert torch.equal(p3, value * 2)

    class Head(nn.Module):
        def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            return [-level for level in levels], [2 * level for level in levels]

    levels = [torch.ones(1), torch.full((1,), 3.0)]
    assert [one.item() for one in DenseHead(Head())(levels)] == [-1, -3, 2, 6]


def test_tensors_by_name_are_as_many_as_the_names() -> None:
    first, second = torch.zeros(3, 4, 5), torch.ones(1)
    assert by_name([first, second], ["a"]) == {"a": first}
    assert size_of(first) == (4, 5)
