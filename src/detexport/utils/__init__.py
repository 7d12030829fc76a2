"""Recording of metrics by models and training loops."""
