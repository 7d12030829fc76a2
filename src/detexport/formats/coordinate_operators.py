"""Operators that read a feature map at coordinates, and which of their inputs are the coordinates.

Rounding a coordinate moves boxes, masks and keypoints; rounding another value changes it only in proportion.
"""

ONNX = {"RoiAlign": (1, 2), "GridSample": (1,), "MaxRoiPool": (1,)}
OPENVINO = {"ROIAlign": (1, 2), "GridSample": (1,), "ROIPooling": (1,)}
