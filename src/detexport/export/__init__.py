"""Export methods: a model in evaluation mode -> an artifact in a deployable format.

One module a method, imported only when it is used: ``tracing``, ``scripting``, ``onnx``. ``TracingAdapter``
is for models of any rich inputs and outputs, ``scripting_with_instances`` for
code that works with ``Instances``.

The package itself can be called: ``detexport.export(model, output="model_onnx")`` is
``detexport.workflows.python_api.export``, which checks the artifact against the model.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.artifact import Provenance
from detexport.export.dump import dump_torchscript_IR
from detexport.export.method import ExportMethod
from detexport.export.scripting_with_instances import scripting_with_instances
from detexport.export.tracing_adapter import TracingAdapter

__all__ = ["ExportMethod", "Provenance", "TracingAdapter", "dump_torchscript_IR", "scripting_with_instances"]


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Export a model: see ``detexport.workflows.python_api.export``."""
        # By name: the workflow stands over this package, and an export method does not need it.
        return import_module("detexport.workflows.python_api").export(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
