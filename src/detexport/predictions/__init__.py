"""A model's detections for people and programs: records, drawings."""
