"""Export methods: a model in evaluation mode -> an artifact in a deployable format.

Each method is a module that is imported only when used: ``tracing``, ``scripting``, ``onnx``,
``torch_export``. ``TracingAdapter`` traces models with rich inputs and outputs;
``scripting_with_instances`` scripts code that works with ``Instances``.

The package is callable: ``detexport.export(model, output="model_onnx")`` calls
``detexport.workflows.python_api.export``, which compares the artifact with the model.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from detexport.system.extras import require_packages

require_packages("torch", "torchvision")

from detexport.artifact import Provenance
from detexport.export.export_method import ExportMethod
from detexport.export.scripting_with_instances import scripting_with_instances
from detexport.export.torchscript_dump import dump_torchscript_IR
from detexport.export.tracing_adapter import TracingAdapter

__all__ = ["ExportMethod", "Provenance", "TracingAdapter", "dump_torchscript_IR", "scripting_with_instances"]


class _CallablePackage(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Export a model: see ``detexport.workflows.python_api.export``."""
        # Imported by name: the workflow depends on this package, not the reverse.
        return import_module("detexport.workflows.python_api").export(*arguments, **options)


sys.modules[__name__].__class__ = _CallablePackage
