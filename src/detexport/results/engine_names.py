"""The engines that run artifacts, in the words of their users."""

ENGINES = {
    "torchscript": ("PyTorch", "torch"),
    "exported_program": ("PyTorch", "torch"),
    "aot_inductor": ("PyTorch", "torch"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime"),
    "openvino": ("OpenVINO", "openvino"),
}
"""Name and package of the engine that each module of ``detexport.runtime`` runs."""


def engine_name(path: str) -> tuple[str, str]:
    """Return the name and the package of the engine behind a runtime's class.

    Args:
        path: a target's ``runtime._target_``; an unknown one stands for itself, without a package.
    """
    return ENGINES.get(path.rpartition(".")[0].rpartition(".")[2], (path, ""))
