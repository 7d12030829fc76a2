"""Compare a runtime's outputs on one image with the eager model's.

By field, whatever the architecture: ``rows`` pairs detections or proposals, ``pairs`` compares what a pair
has, ``dense`` what every pixel has.
"""

from detexport.parity.compare.noise import Noise, NoiseOf
from detexport.parity.compare.sample import SampleParity, compare
from detexport.parity.compare.tolerance import Tolerance

__all__ = ["Noise", "NoiseOf", "SampleParity", "Tolerance", "compare"]
