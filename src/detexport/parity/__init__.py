"""Parity: does an artifact compute what the eager model computes?

``reference`` stores the eager model's detections once, ``compare`` measures one image, ``validate`` a whole
artifact.
"""

from detexport.parity.compare import SampleParity, Tolerance, compare
from detexport.parity.reference import Reference, SampleMeta, read_reference, write_reference
from detexport.parity.validate import ParityReport, validate, validate_artifact

__all__ = [
    "ParityReport",
    "Reference",
    "SampleMeta",
    "SampleParity",
    "Tolerance",
    "compare",
    "read_reference",
    "validate",
    "validate_artifact",
    "write_reference",
]
