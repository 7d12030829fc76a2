"""Operators that read a map of features at coordinates, and which of their inputs these come through.

What is rounded on the way to them moves every box, mask and keypoint; other values round to their own scale.
"""

ONNX = {"RoiAlign": (1, 2), "GridSample": (1,), "MaxRoiPool": (1,)}
OPENVINO = {"ROIAlign": (1, 2), "GridSample": (1,), "ROIPooling": (1,)}
