"""Data sets that loaders are built from, under detectron2's path."""

from detexport.data.build import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset

__all__ = ["AspectRatioGroupedDataset", "DatasetFromList", "MapDataset", "ToIterableDataset"]
