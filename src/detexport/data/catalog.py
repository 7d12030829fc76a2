"""Catalogs of data sets under detectron2's path."""

from detexport.utils.catalog import DatasetCatalog, Metadata, MetadataCatalog, Records

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog", "Records"]
