"""Intersection over union of semantic segmentation on a registered data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detexport.data import DatasetCatalog, MetadataCatalog
from detexport.data.images import read_label_map
from detexport.evaluation.evaluator import DatasetEvaluator
from detexport.system.files import write_json
from detexport.utils import comm


class SemSegEvaluator(DatasetEvaluator):
    """Mean IoU, IoU weighted by frequency, and accuracies, 0 to 100.

    Args:
        dataset_name: its records have ``sem_seg_file_name``, its metadata ``stuff_classes``.
        distributed: collect the counts of all processes; otherwise evaluate those of this process.
        output_dir: folder for ``sem_seg_evaluation.json``, the metrics.
        sem_seg_loading_fn: path of a label map -> (H, W) labels; by default an image file is read.
        num_classes: number of ``stuff_classes``, or None for it.
        ignore_label: label of pixels that are not counted; by default the metadata's ``ignore_label``.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | Path | None = None,
        *,
        sem_seg_loading_fn: Callable[[Any], np.ndarray] | None = None,
        num_classes: int | None = None,
        ignore_label: int | None = None,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(metadata.stuff_classes)
        if num_classes not in (None, len(self._classes)):
            raise ValueError(f"the data set has {len(self._classes)} classes, not num_classes={num_classes}")
        self._maps = {one["file_name"]: one["sem_seg_file_name"] for one in DatasetCatalog.get(dataset_name)}
        self._ignored = metadata.get("ignore_label", 255) if ignore_label is None else ignore_label
        self._distributed = distributed
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._read = sem_seg_loading_fn or (lambda path: read_label_map(Path(path)))
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._counts = np.zeros((len(self._classes),) * 2, np.int64)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: with ``file_name``.
            outputs: with ``sem_seg`` (C, H, W) logits.
        """
        number = len(self._classes)
        for example, output in zip(inputs, outputs, strict=True):
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy().astype(np.int64)
            truth = np.asarray(self._read(self._maps[example["file_name"]])).astype(np.int64)
            counted = (truth != self._ignored) & (truth >= 0) & (truth < number)
            pairs = truth[counted] * number + predicted[counted]
            self._counts += np.bincount(pairs, minlength=number * number).reshape(number, number)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return ``sem_seg``: ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``, and IoU and ACC of each class."""
        counts = self._counts
        if self._distributed:
            parts = comm.gather(counts)
            if not comm.is_main_process():
                return None
            counts = np.sum(parts, axis=0)
        correct, truth, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        present, union = truth > 0, truth + predicted - correct
        iou = np.where(union > 0, correct / np.maximum(union, 1), np.nan)
        accuracy = np.where(present, correct / np.maximum(truth, 1), np.nan)
        share = truth / max(1, truth.sum())
        metrics = {
            "mIoU": _mean(iou[present]),
            "fwIoU": float((iou[present] * share[present]).sum()) * 100,
            "mACC": _mean(accuracy[present]),
            "pACC": float(correct.sum() / max(1, truth.sum())) * 100,
        }
        # As in the mean, a class without annotated pixels has no IoU.
        for name, one, its_accuracy, there in zip(self._classes, iou, accuracy, present, strict=True):
            metrics[f"IoU-{name}"] = float(one) * 100 if there else float("nan")
            metrics[f"ACC-{name}"] = float(its_accuracy) * 100
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._output_dir / "sem_seg_evaluation.json", metrics)
        return {"sem_seg": metrics}


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) * 100 if len(values) else float("nan")
