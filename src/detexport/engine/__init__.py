"""Running models over data: training and average precision."""
