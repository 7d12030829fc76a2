"""Task metrics of detections against ground truth, with numpy and pycocotools; no model and no runtime."""
