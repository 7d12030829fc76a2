"""How good detections are against annotations: numpy and pycocotools, no model and no runtime."""
