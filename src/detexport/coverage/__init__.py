"""Coverage: every model x every target, run by the pipeline's own stages, and the table of what came of it."""
