"""``import detectron2`` resolves to this package, for projects that are written for detectron2.

Importing this module activates the alias for the rest of the process and for those that it starts::

    import detexport.detectron2_alias
    import my_project  # its `from detectron2.modeling import ...` now imports from detexport

From the shell, ``detexport --with my_project export ...`` imports a project before a command, and
``python -m detexport.detectron2_alias SCRIPT.py ...`` runs a script. A name that is not here raises an
ImportError that names it. The modules of the alias stand for the modules here: classes, functions and
registries are the same.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from detexport.config.cfg import extend_defaults
from detexport.config.lazy import allow_project
from detexport.detectron2_names import ROOT, missing, own_path
from detexport.errors import ConfigError, fail

VERSION = "0.6"
"""The version of detectron2 whose documentation the names follow."""


class _Alias(ModuleType):
    """A module of detectron2 that passes its attributes on to the module here."""

    def __init__(self, name: str, target: ModuleType) -> None:
        super().__init__(name, target.__doc__)
        self.__dict__["_target"] = target
        # A package, also where the target is none: only then does Python ask for a missing name by its path.
        self.__dict__["__path__"] = []

    def __getattr__(self, name: str) -> Any:
        target = self.__dict__["_target"]
        if name == "__all__" and not hasattr(target, name):
            return [one for one in dir(target) if not one.startswith("_")]
        try:
            return getattr(target, name)
        except AttributeError:
            # Names with underscores are those that Python itself asks for.
            text = name if name.startswith("__") else missing(f"{self.__name__}.{name}")
            raise AttributeError(text, name=name, obj=self) from None

    def __setattr__(self, name: str, value: Any) -> None:
        # Imports bind submodules of the alias and set names with underscores; the rest changes the target.
        if isinstance(value, _Alias) or name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_target"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__dict__["_target"], name)

    def __dir__(self) -> list[str]:
        return dir(self.__dict__["_target"])


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of detectron2 among those here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a module of the alias; None for another package.

        Raises:
            ImportError: there is no such module here, and no such name in its parent.
        """
        if fullname.partition(".")[0] != ROOT:
            return None
        try:
            known = importlib.util.find_spec(own_path(fullname)) is not None
        except ModuleNotFoundError:  # its parent is a module, not a package
            known = False
        if not known:
            raise ImportError(missing(fullname), name=fullname)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import the module here, and return the alias of it."""
        return _Alias(spec.name, importlib.import_module(own_path(spec.name)))

    def exec_module(self, module: ModuleType) -> None:
        """Set the version; everything else is in the target."""
        if module.__name__ == ROOT:
            module.__version__ = VERSION  # type: ignore[attr-defined]


def activate() -> None:
    """Let ``import detectron2`` resolve to this package; once active it stays.

    Raises:
        ConfigError: the real detectron2 is imported already.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if ROOT in sys.modules:
        raise ConfigError(
            "the real detectron2 is imported already",
            got=getattr(sys.modules[ROOT], "__file__", None),
            expected="a process that imports detexport.detectron2_alias first",
            remedy="import it at the start, or uninstall detectron2",
        )
    sys.meta_path.insert(0, _Finder())
    _pass_on()


def _pass_on() -> None:
    """Let child processes import a package ``detectron2`` that activates the alias."""
    folder = str(Path(__file__).with_name("alias_in_children"))
    if folder not in sys.path:
        sys.path.append(folder)
    inherited = os.environ.get("PYTHONPATH", "")
    if folder not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (inherited, folder)))


def import_projects(names: Iterable[str]) -> None:
    """Activate the alias and import projects, which register their modules.

    A function ``add_*_config(cfg)`` of a project extends the default configuration.

    Args:
        names: importable names, such as ``"my_project"``; the current folder is searched, too.

    Raises:
        ConfigError: a project cannot be imported.
    """
    activate()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names:
        try:
            project = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # an import may raise anything
            raise ConfigError(
                f"cannot import the project {name}",
                got=f"{type(error).__name__}: {error}",
                expected="a package or module on PYTHONPATH or in the current folder",
                remedy="correct the name after --with, or add its folder to PYTHONPATH",
            ) from error
        allow_project(name)
        for attribute, value in sorted(vars(project).items()):
            if attribute.startswith("add_") and attribute.endswith("_config") and callable(value):
                extend_defaults(value)


def run_script(arguments: Sequence[str]) -> None:
    """Run a Python script with the alias, as ``python SCRIPT ...`` does.

    Args:
        arguments: the script and its arguments.

    Raises:
        ConfigError: there is no script.
    """
    if not arguments or not Path(arguments[0]).is_file():
        raise ConfigError(
            "there is no script to run",
            got=arguments[0] if arguments else None,
            expected="python -m detexport.detectron2_alias SCRIPT.py ...",
            remedy="name an existing .py file",
        )
    activate()
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    # Under its own name, so that the alias is one.
    main = importlib.import_module("detexport.detectron2_alias").run_script
    try:
        main(sys.argv[1:])
    except ConfigError as problem:
        sys.exit(fail(problem))
else:
    activate()
