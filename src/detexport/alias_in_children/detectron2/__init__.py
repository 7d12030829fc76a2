"""``import detectron2`` in a child process: activates the alias, and replaces this package by it."""

import importlib
import sys

del sys.modules[__name__]
importlib.import_module("detexport.detectron2_alias")
importlib.import_module(__name__)
