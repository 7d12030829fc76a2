"""Intersection over union of pixels, by hand and compared with the project's mean IoU."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detexport.data import DatasetCatalog, MetadataCatalog
from detexport.evaluation import SemSegEvaluator

NAME = "evaluated_maps"


@pytest.fixture
def maps(tmp_path: Path) -> Iterator[Path]:
    Image.fromarray(np.array([[0, 0, 1, 255], [0, 0, 1, 1]], np.uint8)).save(tmp_path / "a.png")
    records = [{"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.png")}]
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(stuff_classes=["sky", "grass", "sea"], ignore_label=255)
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def logits(labels: list[list[int]]) -> torch.Tensor:
    return torch.eye(3)[torch.tensor(labels)].permute(2, 0, 1)


def test_metrics_by_hand(maps: Path) -> None:
    evaluator = SemSegEvaluator(NAME, output_dir=maps / "out")
    # One pixel of grass is taken for sky, one of sky for sea; the ignored pixel does not count.
    predicted = logits([[0, 2, 0, 1], [0, 0, 1, 1]])
    evaluator.process([{"file_name": "a.jpg"}], [{"sem_seg": predicted}])
    found = evaluator.evaluate()["sem_seg"]
    sky, grass = 3 / 5, 2 / 3
    assert found["IoU-sky"] == pytest.approx(100 * sky)
    assert found["IoU-grass"] == pytest.approx(100 * grass)
    assert np.isnan(found["IoU-sea"])
    assert found["mIoU"] == pytest.approx(100 * (sky + grass) / 2)
    assert found["fwIoU"] == pytest.approx(100 * (4 * sky + 3 * grass) / 7)
    assert found["mACC"] == pytest.approx(100 * (3 / 4 + 2 / 3) / 2)
    assert found["pACC"] == pytest.approx(100 * 5 / 7)
    assert (maps / "out/sem_seg_evaluation.json").is_file()
    evaluator.reset()
    assert np.isnan(evaluator.evaluate()["sem_seg"]["mIoU"])


def test_the_number_of_classes_is_checked(maps: Path) -> None:
    with pytest.raises(ValueError, match="3 classes"):
        SemSegEvaluator(NAME, num_classes=4)
