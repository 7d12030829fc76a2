"""Found by the processes that a process with the alias starts: it activates the alias and gives way to it."""

import importlib
import sys

del sys.modules[__name__]
importlib.import_module("detexport.detectron2_alias")
importlib.import_module(__name__)
