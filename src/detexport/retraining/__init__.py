"""The retrain-and-export job: what a scheduler runs at night."""
