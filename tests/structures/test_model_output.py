"""Raw outputs of a model: which method is called, and the tensors of its outputs."""

from typing import Any

import pytest
import torch
from torch import nn

from detexport.errors import ExportError
from detexport.structures import Boxes, Instances
from detexport.structures.model_output import fields_of_image, raw_outputs


class Detector(nn.Module):
    def forward(self, inputs: Any) -> Any:
        return self.inference(inputs)

    def inference(self, inputs: Any, do_postprocess: bool = True) -> Any:
        return f"inference {do_postprocess}"


class OwnForward(Detector):
    def forward(self, inputs: Any) -> Any:
        return "forward"


class OwnInference(OwnForward):
    def inference(self, inputs: Any, do_postprocess: bool = True) -> Any:
        return f"own inference {do_postprocess}"


class NoOption(nn.Module):
    def forward(self, inputs: Any) -> Any:
        return "forward"

    def inference(self, inputs: Any) -> Any:
        return "inference"


@pytest.mark.parametrize(
    ("model", "called"),
    [
        (Detector(), "inference False"),
        (OwnForward(), "forward"),
        (OwnInference(), "own inference False"),
        (NoOption(), "forward"),
    ],
)
def test_the_method_that_the_class_defines_last_is_called(model: nn.Module, called: str) -> None:
    assert raw_outputs(model, []) == called


def found(**fields: Any) -> Instances:
    return Instances(
        (4, 6),
        pred_boxes=Boxes([[0.0, 0, 2, 2]]),
        scores=torch.ones(1),
        pred_classes=torch.zeros(1, dtype=torch.int64),
        **fields,
    )


def test_fields_of_instances_of_a_dict_and_of_a_panoptic_model() -> None:
    logits = torch.zeros(2, 4, 6)
    detections = found(pred_masks=torch.full((1, 1, 3, 3), 0.5), pred_keypoint_heatmaps=torch.zeros(1, 5, 5))
    for outputs in ([{"instances": detections, "sem_seg": logits}], ([detections], [logits])):
        fields = fields_of_image(outputs, "model")
        assert {name: tuple(value.shape) for name, value in fields.items()} == {
            **{"pred_boxes": (1, 4), "scores": (1,), "pred_classes": (1,)},
            **{"pred_masks": (1, 3, 3), "sem_seg": (2, 4, 6)},
        }
    assert set(fields_of_image([found()], "model")) == {"pred_boxes", "scores", "pred_classes"}


@pytest.mark.parametrize(
    ("outputs", "got"),
    [
        ([], r"list \[\]"),
        ([found(), found()], "list"),
        ([{"masks": torch.zeros(1)}], "output 'masks', a Tensor"),
        ([found(pred_masks=torch.zeros(1, 4, 6, dtype=torch.bool))], "pasted into the image"),
        ([found(track=torch.zeros(1))], "instances with the field 'track'"),
        ([found(pred_keypoints=[0])], "pred_keypoints as list"),
        ([Instances((4, 6), proposal_boxes=Boxes([[0.0, 0, 2, 2]]))], "proposals without objectness_logits"),
    ],
)
def test_other_outputs_are_refused_with_what_they_are(outputs: Any, got: str) -> None:
    with pytest.raises(ExportError, match=f"the outputs of Mine have no contract; got: .*{got}"):
        fields_of_image(outputs, "Mine")
