"""First divergence: the first segment of the model whose outputs differ in an artifact.

``segments`` cuts a model between named tensors. ``segment_exports`` exports each by the artifact's method and
runs it in the artifact's runtime on the eager model's tensors. ``diagnose`` names the first that differs.
Nothing is imported here.
"""
