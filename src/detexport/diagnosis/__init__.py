"""First divergence: where does an artifact first compute something else than the model?

``segments`` cuts a model between named tensors, ``twin`` exports each segment by the artifact's own method
and runs it in the artifact's runtime on the eager model's tensors, ``diagnose`` names the first that differs.
Nothing is imported here.
"""
