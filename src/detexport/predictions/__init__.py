"""A model's detections as JSON-serializable records and as drawings."""
