"""Data sets in COCO's format: synthesis, reading, resizing, mapping and loaders.

The package does not import torch: names that need it, such as ``DatasetMapper``, are imported on access.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from detexport.data.catalog import DatasetCatalog, Metadata, MetadataCatalog
from detexport.data.coco import CocoDataset, CocoRecord, load_coco
from detexport.data.images import decode_image, read_image
from detexport.data.resize import resize_image, resized_size

if TYPE_CHECKING:
    from detexport.data.build import (
        AspectRatioGroupedDataset,
        DatasetFromList,
        MapDataset,
        ToIterableDataset,
        build_batch_data_loader,
        build_detection_test_loader,
        build_detection_train_loader,
        get_detection_dataset_dicts,
        load_proposals_into_dataset,
        print_instances_class_histogram,
    )
    from detexport.data.dataset_mapper import DatasetMapper
    from detexport.data.datasets import load_coco_json, register_coco_instances

_WITH_TORCH = {
    **dict.fromkeys(
        (
            "AspectRatioGroupedDataset",
            "DatasetFromList",
            "MapDataset",
            "ToIterableDataset",
            "build_batch_data_loader",
            "load_proposals_into_dataset",
            "print_instances_class_histogram",
        ),
        "build",
    ),
    "DatasetMapper": "dataset_mapper",
    "build_detection_test_loader": "build",
    "build_detection_train_loader": "build",
    "get_detection_dataset_dicts": "build",
    "load_coco_json": "datasets",
    "register_coco_instances": "datasets",
}

__all__ = [
    "AspectRatioGroupedDataset",
    "CocoDataset",
    "CocoRecord",
    "DatasetCatalog",
    "DatasetFromList",
    "DatasetMapper",
    "MapDataset",
    "Metadata",
    "MetadataCatalog",
    "ToIterableDataset",
    "build_batch_data_loader",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "decode_image",
    "get_detection_dataset_dicts",
    "load_coco",
    "load_coco_json",
    "load_proposals_into_dataset",
    "print_instances_class_histogram",
    "read_image",
    "register_coco_instances",
    "resize_image",
    "resized_size",
]


def __getattr__(name: str) -> Any:
    if name in _WITH_TORCH:
        return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
