"""Panoptic quality on a registered data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detexport.data import MetadataCatalog
from detexport.data.panoptic import segments_of_ids
from detexport.evaluation.evaluator import DatasetEvaluator
from detexport.metrics.panoptic_quality import PanopticQuality
from detexport.system.files import write_json
from detexport.utils import comm


class COCOPanopticEvaluator(DatasetEvaluator):
    """Panoptic, segmentation and recognition quality, 0 to 100, of all categories, things and stuff.

    The metadata has ``panoptic_json``, ``panoptic_root``, and the contiguous ids of things and stuff.

    Args:
        dataset_name: in the catalogs.
        output_dir: folder for ``panoptic_evaluation.json``, the metrics.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._things = _ids_by_class(self._metadata.thing_dataset_id_to_contiguous_id)
        self._stuff = _ids_by_class(self._metadata.stuff_dataset_id_to_contiguous_id)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._quality = PanopticQuality(Path(self._metadata.panoptic_json), list(self._things.values()))
        self._quality.folder = Path(self._metadata.panoptic_root)
        self._tallies: list[dict[Any, Any]] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Match the segments of a batch.

        Args:
            inputs: with ``image_id``.
            outputs: with ``panoptic_seg``, the ids of the pixels and ``segments_info``, or None, if the ids
                hold the categories.
        """
        for example, output in zip(inputs, outputs, strict=True):
            ids, segments = output["panoptic_seg"]
            segment_map = np.asarray(ids.cpu())
            if segments is None:
                segment_map, segments = segments_of_ids(
                    segment_map, self._metadata.label_divisor, self._things.keys()
                )
            named = [self._as_evaluated(segment) for segment in segments]
            self._tallies.append(self._quality.evaluate_image(example["image_id"], segment_map, named))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Return ``panoptic_seg``: ``PQ``, ``SQ`` and ``RQ``, with ``_th`` of things, ``_st`` of stuff."""
        parts = comm.gather(self._tallies)
        if not comm.is_main_process():
            return None
        total = PanopticQuality(Path(self._metadata.panoptic_json), list(self._things.values()))
        for tallies in parts:
            for tally in tallies:
                total.accumulate(tally)
        metrics = {name.removeprefix("panoptic/"): value * 100 for name, value in total.result().items()}
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            write_json(self._output_dir / "panoptic_evaluation.json", metrics)
        return {"panoptic_seg": metrics}

    def _as_evaluated(self, segment: dict[str, Any]) -> dict[str, Any]:
        """Return a segment with its class as ``PanopticQuality`` counts: things from 0, stuff from 1."""
        category = segment["category_id"]
        if segment["isthing"]:
            return {**segment, "category_id": list(self._things).index(category)}
        stuff = self._quality.stuff_ids.index(self._stuff[category])
        return {**segment, "category_id": stuff + 1}


def _ids_by_class(contiguous: dict[Any, int]) -> dict[int, Any]:
    """Return COCO's id of each class, by class."""
    return {index: category for category, index in sorted(contiguous.items(), key=lambda item: item[1])}
