"""Names of detectron2 that are not here, each with the reason."""

ROOT = "detectron2"
"""The package whose names exist here under the same paths."""

_CAFFE2 = "torch no longer contains Caffe2; export to ONNX or TorchScript"

REFUSED: dict[str, str] = {
    "detectron2.checkpoint.Checkpointer": "use DetectionCheckpointer, which reads every format",
    "detectron2.config.downgrade_config": "configurations are those of VERSION 2",
    "detectron2.config.upgrade_config": "configurations are those of VERSION 2",
    "detectron2.data.datasets.builtin": "register your data sets yourself",
    "detectron2.data.datasets.builtin_meta": "the categories are read from the annotation file",
    "detectron2.data.datasets.get_lvis_instances_meta": "the categories are read from the annotation file",
    "detectron2.evaluation.cityscapes_evaluation": "it needs the package cityscapesscripts",
    "detectron2.evaluation.lvis_evaluation": "it needs the package lvis",
    "detectron2.evaluation.pascal_voc_evaluation": "evaluate with COCOEvaluator",
    "detectron2.evaluation.rotated_coco_evaluation": "rotated boxes are not evaluated",
    "detectron2.modeling.mmdet_wrapper": "it wraps another library's models",
    "detectron2.evaluation.CityscapesInstanceEvaluator": "it needs the package cityscapesscripts",
    "detectron2.evaluation.CityscapesSemSegEvaluator": "it needs the package cityscapesscripts",
    "detectron2.evaluation.LVISEvaluator": "it needs the package lvis",
    "detectron2.evaluation.PascalVOCDetectionEvaluator": "evaluate with COCOEvaluator",
    "detectron2.evaluation.RotatedCOCOEvaluator": "rotated boxes are not evaluated",
    "detectron2.export.Caffe2Model": _CAFFE2,
    "detectron2.export.Caffe2Tracer": _CAFFE2,
    "detectron2.modeling.MMDetBackbone": "it wraps another library's models",
    "detectron2.modeling.MMDetDetector": "it wraps another library's models",
    "detectron2.structures.BitMasks.from_roi_masks": "call ROIMasks.to_bitmasks, which is given the boxes",
}
"""A refused name, or a module all of whose names are refused, with the reason."""


def refusal(path: str) -> str | None:
    """Return why ``path``, a name or a member of one, is refused; None if it is not."""
    parts = path.split(".")
    owners = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((REFUSED[owner] for owner in owners if owner in REFUSED), None)


def own_path(path: str) -> str:
    """Return the path here of a module of detectron2."""
    return path.replace(ROOT, __name__.partition(".")[0], 1)


def missing(path: str) -> str:
    """Return the message of an import that fails."""
    reason = refusal(path)
    advice = reason or "if your project needs it, open an issue in detexport's repository with this line"
    return f"{path} is not part of detexport: {advice}"
