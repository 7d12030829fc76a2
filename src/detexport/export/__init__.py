"""Export methods: a model in evaluation mode -> an artifact in a deployable format.

One module a method, imported only when it is used: ``tracing``, ``scripting``, ``onnx``. ``TracingAdapter``
is for models of any rich inputs and outputs.
"""

from detexport.export.dump import dump_torchscript_IR
from detexport.export.method import ExportMethod, Provenance
from detexport.export.tracing_adapter import TracingAdapter

__all__ = ["ExportMethod", "Provenance", "TracingAdapter", "dump_torchscript_IR"]
