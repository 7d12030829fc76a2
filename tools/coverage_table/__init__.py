"""Coverage: every model x every target, run by the pipeline's own stages, and a table of what came."""
