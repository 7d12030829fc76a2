"""Batch prediction: the detections of all images of a folder or bucket, as Parquet files."""
