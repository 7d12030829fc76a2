"""The opsets that the exporters can write; without torch, so that an invalid one is reported at once."""

OLDEST = 18
"""Required by ReduceMax with axes as an input, and by RoiAlign with half-pixel centres."""
LATEST_TORCHSCRIPT = 20
"""The latest opset of torch's TorchScript-based exporter."""


def latest_written(exporter: str) -> int:
    """Return the latest opset of an exporter of ``torch.onnx``; for the newer one, that of ``onnx``."""
    if exporter == "torchscript":
        return LATEST_TORCHSCRIPT
    import onnx

    return int(onnx.defs.onnx_opset_version())
