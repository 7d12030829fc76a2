"""Compare a runtime's outputs on one image with the eager model's.

Fields are compared whatever the architecture: ``match_detections`` pairs detections or proposals,
``masks_keypoints`` compares masks and keypoints of pairs, ``dense`` semantic and panoptic segmentation.
"""

from detexport.parity.compare.compare_image import SampleParity, compare
from detexport.parity.compare.noise import Noise, NoiseOf
from detexport.parity.compare.tolerance import Tolerance

__all__ = ["Noise", "NoiseOf", "SampleParity", "Tolerance", "compare"]
