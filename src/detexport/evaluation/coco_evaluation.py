"""COCO's average precision of detections on a registered data set."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from detexport.data import MetadataCatalog
from detexport.data.datasets import convert_to_coco_json
from detexport.errors import ConfigError
from detexport.evaluation.evaluator import DatasetEvaluator
from detexport.metrics.average_precision import (
    HEADLINES,
    KEYPOINT_METRICS,
    METRICS,
    coco_detections,
    evaluate_detections,
)
from detexport.system.files import write_json
from detexport.utils import comm

TASKS = {"bbox": "pred_boxes", "segm": "pred_masks", "keypoints": "pred_keypoints"}
"""The field that each task needs."""
MOST_DETECTIONS = 100
"""COCO's limit per image."""


class COCOEvaluator(DatasetEvaluator):
    """Average precision of boxes, masks and keypoints, and average recall of proposals.

    The data set has a COCO file in its metadata (``json_file``), or is converted to one. Metrics are 0 to
    100; one that cannot be computed is NaN.

    Args:
        dataset_name: in both catalogs.
        tasks: ``"bbox"``, ``"segm"`` and ``"keypoints"``; by default those that the outputs have fields for.
        distributed: collect the outputs of all processes; otherwise evaluate those of this process.
        output_dir: folder for ``coco_instances_results.json``, the detections in COCO's format, and
            ``coco_proposals_results.json``, the proposals, if any.
        max_dets_per_image: must be 100, COCO's limit, or None, which means 100.
        use_fast_impl: has no effect; pycocotools is always used.
        kpt_oks_sigmas: OKS sigma of each keypoint; by default COCO's for a person.
        allow_cached_coco: use a converted file of an earlier run in ``output_dir``.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | Path | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        unknown = sorted(set(tasks or ()) - TASKS.keys())
        if unknown:
            raise ConfigError("unknown tasks", got=unknown, expected=" or ".join(TASKS))
        if max_dets_per_image not in (None, MOST_DETECTIONS):
            raise ConfigError(
                "the metrics are COCO's, of 100 detections per image",
                got=f"max_dets_per_image={max_dets_per_image}",
                expected=f"None or {MOST_DETECTIONS}",
            )
        self._name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        self._tasks = tuple(tasks or ())
        self._distributed = distributed
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._sigmas = tuple(kpt_oks_sigmas)
        self._allow_cached = allow_cached_coco
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._detections: dict[str, list[dict[str, Any]]] = {}
        self._images: list[Any] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take in the detections of a batch.

        Args:
            inputs: with ``image_id``.
            outputs: with ``instances`` or ``proposals``, in px of the original images.
        """
        ids = self._category_ids()
        for example, output in zip(inputs, outputs, strict=True):
            self._images.append(example["image_id"])
            fields = _arrays(output["instances"]) if "instances" in output else {}
            tasks = self._tasks or [task for task, name in TASKS.items() if name in fields]
            for task in tasks if fields else ():
                found = coco_detections(example["image_id"], fields, ids, task)
                self._detections.setdefault(task, []).extend(found)
            if "proposals" in output:
                found = coco_detections(example["image_id"], _arrays(output["proposals"]), ids, "proposals")
                self._detections.setdefault("proposals", []).extend(found)

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> dict[str, dict[str, float]] | None:
        """Return the metrics by task and name, with the AP of each class as ``AP-name``.

        Args:
            img_ids: the images to evaluate; by default all of the data set. An image that was not processed
                counts as one without detections.
        """
        detections, images = self._collected()
        if detections is None:
            return None
        if not images:
            return {}
        if self._output_dir is not None:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            rows = _rows([found for task, found in detections.items() if task in TASKS])
            write_json(self._output_dir / "coco_instances_results.json", rows)
            if "proposals" in detections:
                proposals = _rows([detections["proposals"]])
                write_json(self._output_dir / "coco_proposals_results.json", proposals)
        with TemporaryDirectory() as scratch:
            metrics, tallies = evaluate_detections(
                self._annotations(Path(scratch)),
                detections,
                self._category_ids(),
                self._sigmas,
                None if img_ids is None else list(img_ids),
                mentioned=images,
            )
        results = {}
        for task in detections:
            if task == "proposals":
                recalls = {f"AR@{n}": metrics.get(f"proposals/AR{n}", np.nan) * 100 for n in (1, 10, 100)}
                results["box_proposals"] = recalls
                continue
            names = KEYPOINT_METRICS if task == "keypoints" else METRICS
            of_task = {name: metrics.get(f"{task}/{name}", np.nan) * 100 for name in names}
            classes = self._metadata.thing_classes
            by_class = tallies[HEADLINES[task]].by_class()
            of_task |= {
                f"AP-{name}": float(value) * 100 for name, value in zip(classes, by_class, strict=True)
            }
            results[task] = of_task
        return results

    def _collected(self) -> tuple[dict[str, list[dict[str, Any]]] | None, list[Any]]:
        """Return the detections and images of all processes; None on others than the main one."""
        if not self._distributed:
            return self._detections, self._images
        parts = comm.gather((self._detections, self._images))
        if not comm.is_main_process():
            return None, []
        detections: dict[str, list[dict[str, Any]]] = {}
        for part, _ in parts:
            for task, found in part.items():
                detections.setdefault(task, []).extend(found)
        return detections, [image for _, images in parts for image in images]

    def _category_ids(self) -> list[Any]:
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        classes = range(len(self._metadata.thing_classes))
        return sorted(ids, key=ids.__getitem__) if ids else list(classes)

    def _annotations(self, scratch: Path) -> Path:
        if self._metadata.get("json_file"):
            return Path(self._metadata.json_file)
        path = (self._output_dir or scratch) / f"{self._name}_coco_format.json"
        convert_to_coco_json(self._name, path, allow_cached=self._allow_cached)
        return path


def _rows(tasks: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return one result in COCO's format per detection, with the fields of all tasks."""
    keys = ("image_id", "category_id", "score", "bbox", "segmentation", "keypoints")
    merged = (
        {key: value for part in parts for key, value in part.items()} for parts in zip(*tasks, strict=True)
    )
    return [{key: row[key] for key in keys if key in row} for row in merged]


def _arrays(instances: Any) -> dict[str, np.ndarray]:
    fields = instances.to("cpu").get_fields()
    return {name: np.asarray(getattr(value, "tensor", value)) for name, value in fields.items()}
