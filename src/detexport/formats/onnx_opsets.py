"""Versions of ONNX's operators that can be written; free of torch, so that a wrong one is named at once."""

OLDEST = 18
"""RoiAlign with half-pixel centres, and ReduceMax with axes as an input, need it."""
LATEST_TORCHSCRIPT = 20
"""The latest that torch's older exporter writes."""


def latest_written(exporter: str) -> int:
    """The latest version that an exporter of ``torch.onnx`` writes; the newer one all that ``onnx`` knows."""
    if exporter == "torchscript":
        return LATEST_TORCHSCRIPT
    import onnx

    return int(onnx.defs.onnx_opset_version())
