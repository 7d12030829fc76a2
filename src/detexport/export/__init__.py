"""Export methods: a model in evaluation mode -> an artifact in a deployable format.

One module a method, imported only when it is used: ``tracing``, ``scripting``, ``onnx``.
"""

from detexport.export.method import ExportMethod, Provenance

__all__ = ["ExportMethod", "Provenance"]
