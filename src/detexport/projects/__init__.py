"""Projects that detectron2 distributes beside itself, under its paths."""
