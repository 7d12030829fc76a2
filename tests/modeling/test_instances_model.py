"""Models that only define methods on Instances: their contract, their graph, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detexport.artifact import Provenance
from detexport.errors import ConfigError, ExportError
from detexport.export.record_program import record_program
from detexport.export.torch_export import TorchExport
from detexport.export.tracing import Tracing
from detexport.layers import batched_nms
from detexport.modeling.meta_arch.instances_model import InstancesModel, exportable
from detexport.structures import Boxes, ImageList, Instances, RotatedBoxes
from detexport.workflows.given_model import given_model
from small_architectures import small_model

SAMPLE = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
OTHER = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 80, 56), dtype=np.uint8))


class Spots(nn.Module):
    """A meta architecture of a project: bright cells of 8 x 8 px are objects. It has ``forward`` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.tensor([1.0, 2, 3]).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor([50.0, 60, 70]).view(-1, 1, 1), False)
        self.pool = nn.AvgPool2d(8)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        images = [(x["image"] - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        batch = ImageList.from_tensors(images, 8)
        heat = self.pool(batch.tensor).mean(dim=1) * self.scale
        return [self.found(one, size) for one, size in zip(heat, batch.image_sizes, strict=True)]

    def found(self, heat: Tensor, image_size: Any) -> Any:
        return {"instances": self.instances(heat, image_size)}

    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        rows, columns = (heat > heat.mean()).nonzero(as_tuple=True)
        corner = torch.stack((columns, rows), dim=1) * 8
        boxes = Boxes(torch.cat((corner, corner + 12), dim=1))
        boxes.clip(image_size)
        scores = heat[rows, columns].sigmoid()
        classes = (rows % 2).int()
        keep = batched_nms(boxes.tensor, scores, classes, 0.5)[:9]
        return Instances(image_size, pred_boxes=boxes[keep], scores=scores[keep], pred_classes=classes[keep])


class Raw(Spots):
    """It has ``inference`` with raw masks and keypoints, and semantic logits."""

    num_classes = 2

    def inference(self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True) -> Any:
        assert not do_postprocess
        return super().forward(batched_inputs)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        return self.inference(batched_inputs)

    def found(self, heat: Tensor, image_size: Any) -> Any:
        found = self.instances(heat, image_size)
        found.pred_masks = found.scores[:, None, None, None].expand(-1, 1, 4, 4)
        found.pred_keypoints = found.scores[:, None, None].expand(-1, 2, 3)
        found.pred_keypoint_heatmaps = found.scores[:, None, None].expand(-1, 5, 5)
        logits = torch.nn.functional.interpolate(heat[None, None], scale_factor=8)[0].expand(3, -1, -1)
        return {"instances": found, "sem_seg": logits[:, : image_size[0], : image_size[1]]}


class Proposals(Spots):
    def found(self, heat: Tensor, image_size: Any) -> Any:
        found = self.instances(heat, image_size)
        proposals = Instances(image_size, proposal_boxes=found.pred_boxes, objectness_logits=found.scores)
        return {"proposals": proposals}


class Rotated(Spots):
    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        found = super().instances(heat, image_size)
        found.pred_boxes = RotatedBoxes(torch.cat((found.pred_boxes.tensor, found.scores[:, None]), dim=1))
        return found


def outputs_of(net: Any, names: tuple[str, ...]) -> list[Tensor]:
    with torch.no_grad():
        (fields,) = net.detect([OTHER])
    assert len(fields[names[0]]) > 0
    return [fields[name] for name in names]


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Spots, {"pred_boxes": ("R", 4), "scores": ("R",), "pred_classes": ("R",)}),
        (
            Raw,
            {
                **{"pred_boxes": ("R", 4), "scores": ("R",), "pred_classes": ("R",)},
                **{"pred_masks": ("R", 4, 4), "pred_keypoints": ("R", 2, 3), "sem_seg": (3, "H", "W")},
            },
        ),
        (Proposals, {"proposal_boxes": ("R", 4), "objectness_logits": ("R",)}),
        (Rotated, {"pred_boxes": ("R", 5), "scores": ("R",), "pred_classes": ("R",)}),
    ],
)
def test_the_contract_and_both_graphs(model: type[Spots], shapes: dict[str, Any]) -> None:
    net = exportable(model().eval())
    contract = net.contract(())
    assert isinstance(net, InstancesModel)
    assert {spec.name: spec.shape for spec in contract.outputs} == shapes
    assert (contract.pixel_mean, contract.pixel_std) == ((1, 2, 3), (50, 60, 70))
    expected = outputs_of(net, contract.output_names)
    with torch.no_grad():
        graph = net.image_graph(contract.output_names)
        traced = torch.jit.trace(graph, torch.from_numpy(SAMPLE), check_trace=False)(OTHER)
        recorded = record_program(net, SAMPLE, contract).module()(OTHER)
    for spec, one, other, value in zip(contract.outputs, traced, recorded, expected, strict=True):
        assert torch.equal(one, value)
        torch.testing.assert_close(other, value)
        assert str(one.dtype) == f"torch.{spec.dtype}"


@pytest.mark.parametrize("method", [Tracing("raw"), TorchExport("raw")])
def test_an_export_writes_an_artifact(method: Any, tmp_path: Path) -> None:
    given = given_model(Spots().eval())
    assert given.contract.class_names == ()
    artifact = method.export(
        given.net, SAMPLE, tmp_path / "a", contract=given.contract, provenance=Provenance("0" * 64, "0" * 64)
    )
    assert artifact.contract == given.contract
    assert (artifact.contract.num_classes, artifact.contract.max_detections) == (None, -1)


def test_class_names_of_a_model_with_and_without_a_number_of_classes() -> None:
    assert given_model(Raw().eval()).contract.class_names == ("0", "1")
    names = given_model(Spots().eval()).with_class_names(["even", "odd"]).contract.class_names
    assert names == ("even", "odd")
    with pytest.raises(ConfigError, match=r"got: 1 names: even; expected: 2 things"):
        given_model(Raw().eval()).with_class_names(["even"])


def test_a_model_with_a_graph_is_left_as_it_is() -> None:
    net = small_model("retinanet").eval()
    assert exportable(net) is net


def test_it_is_not_scripted() -> None:
    with pytest.raises(ExportError, match="Spots cannot be scripted"):
        exportable(Spots().eval()).batch_graph()


class Pasted(Spots):
    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        found = super().instances(heat, image_size)
        found.pred_masks = torch.zeros(len(found), *image_size, dtype=torch.bool)
        return found


class Embedding(Spots):
    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        found = super().instances(heat, image_size)
        found.embedding = found.scores[:, None]
        return found


class NoScores(Spots):
    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        found = super().instances(heat, image_size)
        found.remove("scores")
        return found


class Panoptic(Spots):
    def found(self, heat: Tensor, image_size: Any) -> Any:
        return {"panoptic_seg": (heat, [])}


class Nothing(Spots):
    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        return []


class Failing(Spots):
    def found(self, heat: Tensor, image_size: Any) -> Any:
        raise KeyError("own")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Pasted, r"Pasted have no contract; got: pred_masks .*pasted into the image.*do_postprocess=False"),
        (Embedding, r"Embedding have no contract; got: instances with the field 'embedding'"),
        (NoScores, r"NoScores have no contract; got: instances without scores"),
        (Panoptic, r"Panoptic have no contract; got: output 'panoptic_seg', a tuple"),
        (Nothing, r"Nothing have no contract; got: list \[\]"),
        (Failing, r"Failing does not run on one image; got: KeyError: 'own'"),
    ],
)
def test_outputs_without_a_contract_are_refused(model: type[Spots], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        given_model(model().eval())


class Branching(Spots):
    def instances(self, heat: Tensor, image_size: Any) -> Instances:
        found = super().instances(heat, image_size)
        if heat[0].mean() > heat[-1].mean():
            found.scores = found.scores / 2
        return found


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Tracing("raw"), r"a trace of Branching would keep .*model\.py:\d+: if heat\[0\]\.mean\(\) >"),
        (TorchExport("raw"), r"torch.export cannot record Branching; .*: if heat\[0\]\.mean\(\) >"),
    ],
)
def test_the_line_that_stops_an_export_is_named(method: Any, message: str) -> None:
    net = exportable(Branching().eval())
    brighter_below = np.sort(SAMPLE, axis=1)
    with pytest.raises(ExportError, match=message):
        method.record(net, brighter_below, net.contract(()))
