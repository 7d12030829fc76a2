"""Registration in MLflow; the only place that imports it."""
