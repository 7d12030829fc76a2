"""detectron2's utilities: events, logging, communication between processes, drawing, registries."""
