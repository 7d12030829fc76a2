"""What models and training loops record while they run."""
