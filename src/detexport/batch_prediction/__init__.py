"""Detections of all images of a folder or bucket, written in parts."""
