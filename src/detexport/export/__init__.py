"""Export methods: a model in evaluation mode -> an artifact in a deployable format.

One module a method, imported only when it is used: ``tracing``, ``scripting``, ``onnx``. ``TracingAdapter``
is for models of any rich inputs and outputs, ``scripting_with_instances`` for
code that works with ``Instances``.
"""

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.artifact import Provenance
from detexport.export.dump import dump_torchscript_IR
from detexport.export.method import ExportMethod
from detexport.export.scripting_with_instances import scripting_with_instances
from detexport.export.tracing_adapter import TracingAdapter

__all__ = ["ExportMethod", "Provenance", "TracingAdapter", "dump_torchscript_IR", "scripting_with_instances"]
