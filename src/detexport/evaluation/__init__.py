"""Evaluators of a model's outputs on registered data sets, with detectron2's interface.

Importing the package does not import torch: the names import what they need on access.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detexport.evaluation.coco_evaluation import COCOEvaluator
    from detexport.evaluation.evaluator import (
        DatasetEvaluator,
        DatasetEvaluators,
        inference_context,
        inference_on_dataset,
    )
    from detexport.evaluation.panoptic_evaluation import COCOPanopticEvaluator
    from detexport.evaluation.sem_seg_evaluation import SemSegEvaluator
    from detexport.evaluation.testing import print_csv_format, verify_results

_MODULES = {
    "COCOEvaluator": "coco_evaluation",
    "COCOPanopticEvaluator": "panoptic_evaluation",
    "DatasetEvaluator": "evaluator",
    "DatasetEvaluators": "evaluator",
    "SemSegEvaluator": "sem_seg_evaluation",
    "inference_context": "evaluator",
    "inference_on_dataset": "evaluator",
    "print_csv_format": "testing",
    "verify_results": "testing",
}

__all__ = [
    "COCOEvaluator",
    "COCOPanopticEvaluator",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "SemSegEvaluator",
    "inference_context",
    "inference_on_dataset",
    "print_csv_format",
    "verify_results",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
