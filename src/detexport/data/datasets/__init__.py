"""Annotation files of several formats as records of ``DatasetCatalog``: see ``coco``."""

from detexport.data.datasets.coco import (
    convert_to_coco_json,
    load_coco_json,
    load_sem_seg,
    register_coco_instances,
)
from detexport.data.datasets.coco_panoptic import register_coco_panoptic, register_coco_panoptic_separated
from detexport.data.datasets.lvis import load_lvis_json, register_lvis_instances
from detexport.data.datasets.pascal_voc import load_voc_instances, register_pascal_voc

__all__ = [
    "convert_to_coco_json",
    "load_coco_json",
    "load_lvis_json",
    "load_sem_seg",
    "load_voc_instances",
    "register_coco_instances",
    "register_coco_panoptic",
    "register_coco_panoptic_separated",
    "register_lvis_instances",
    "register_pascal_voc",
]
