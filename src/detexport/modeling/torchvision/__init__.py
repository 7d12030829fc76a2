"""torchvision's detection models behind the interface of this package's models.

The layers, their names and the losses are torchvision's. Post-processing uses the functions of this package,
because torchvision's own code does not go through ``torch.export`` and ONNX with a free height and width. The
detections are the same.
"""

from detexport.modeling.torchvision.build import build_torchvision_detector, is_torchvision, wrap_torchvision
from detexport.modeling.torchvision.dense import TorchvisionDense
from detexport.modeling.torchvision.detector import TorchvisionDetector
from detexport.modeling.torchvision.rcnn import TorchvisionRCNN
from detexport.modeling.torchvision.ssd import TorchvisionSSD

__all__ = [
    "TorchvisionDense",
    "TorchvisionDetector",
    "TorchvisionRCNN",
    "TorchvisionSSD",
    "build_torchvision_detector",
    "is_torchvision",
    "wrap_torchvision",
]
