"""Coverage: run every model x every target with the pipeline's own stages; tabulate the results."""
