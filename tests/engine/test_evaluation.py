"""The evaluation of a whole model: every output that it has, on every image."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from annotated import ground_truth_keypoints
from detexport.contract import ResizeRule
from detexport.data.coco import CocoDataset, load_coco
from detexport.engine.evaluation import evaluate, evaluate_in_shares
from detexport.errors import DataError
from detexport.metrics.evaluate import FIELDS
from detexport.structures import Boxes, Instances
from synthetic_shapes import synthetic_shapes

SIGMAS = [0.05] * 5


@pytest.fixture(scope="module")
def keypoints(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    synthetic_shapes(train_images=0, val_images=5).write(folder)
    return load_coco(folder, "val", kind="keypoints")


class Oracle:
    """A model that returns the ground ground_truth."""

    input_format = "RGB"
    resize = ResizeRule(0, 0)

    def __init__(self, dataset: CocoDataset, *fields: str) -> None:
        found = [outputs for _, outputs in ground_truth_keypoints(dataset)]
        self.results = iter([{"instances": self.instances(outputs, fields)} for outputs in found])

    @staticmethod
    def instances(outputs: dict[str, np.ndarray], fields: tuple[str, ...]) -> Instances:
        chosen = {name: torch.from_numpy(outputs[name]) for name in ("scores", "pred_classes", *fields)}
        return Instances((1, 1), pred_boxes=Boxes(torch.from_numpy(outputs["pred_boxes"])), **chosen)

    def eval(self) -> None:
        pass

    def __call__(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [next(self.results)]


@pytest.mark.parametrize("fields", [(), ("pred_masks",), ("pred_keypoints", "pred_masks")])
def test_all_outputs_of_a_model_are_evaluated(keypoints: CocoDataset, fields: tuple[str, ...]) -> None:
    metrics = evaluate(Oracle(keypoints, *fields), keypoints, SIGMAS)
    assert {name.split("/")[0] for name in metrics} == {"bbox", *(FIELDS[field] for field in fields)}
    assert all(value == pytest.approx(1.0) for value in metrics.values())


def test_a_data_set_without_images(keypoints: CocoDataset) -> None:
    with pytest.raises(DataError, match="no image to evaluate on"):
        evaluate(Oracle(keypoints), replace(keypoints, images=()))


def test_a_panoptic_map_without_segments_info(keypoints: CocoDataset) -> None:
    model = Oracle(keypoints)
    found = next(model.results)
    model.results = iter([{**found, "panoptic_seg": (torch.zeros(2, 2, dtype=torch.int64), None)}])
    with pytest.raises(DataError, match="segments_of_ids"):
        evaluate(model, keypoints, SIGMAS)


def test_shares_of_the_images_give_the_metrics_of_all(keypoints: CocoDataset) -> None:
    whole = evaluate(Oracle(keypoints), keypoints)
    parts = [replace(keypoints, images=keypoints.images[rank::2]) for rank in range(2)]
    found: list[list[Any]] = []

    def gather(value: Any) -> list[Any]:
        found.append(value)
        return found

    with pytest.raises(DataError, match="no image to evaluate on"):  # nothing was gathered
        evaluate_in_shares(Oracle(parts[0]), keypoints, SIGMAS, lambda _: [], 0, 2)
    evaluate_in_shares(Oracle(parts[0]), keypoints, SIGMAS, gather, 0, 2)
    assert len(found[0]) == 3
    assert evaluate_in_shares(Oracle(parts[1]), keypoints, SIGMAS, gather, 1, 2) == whole
