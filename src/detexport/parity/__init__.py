"""Parity: does an artifact compute what the eager model computes?

``reference`` stores the eager model's detections once, ``compare`` measures one image, ``validate`` a whole
artifact. Nothing is imported here: whoever stores a reference does not depend on the comparison.
"""
