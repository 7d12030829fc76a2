"""The source of a class says what the imported class says."""

import ast
from importlib import import_module

import pytest

from detexport.system.class_source import class_attribute, class_body, required_packages
from detexport.targets.table import artifacts, targets

COMPONENTS = sorted(
    {target.runtime.path for target in targets().values()}
    | {recipe.maker.path for recipe in artifacts().values()}
)


@pytest.mark.parametrize("path", COMPONENTS)
def test_the_packages_are_those_of_the_imported_class(path: str) -> None:
    module, _, name = path.rpartition(".")
    packages = required_packages(path)
    assert packages
    assert packages == getattr(import_module(module), name).packages


def test_the_body_has_the_options_of_the_class() -> None:
    body = class_body("detexport.export.onnx.Onnx")
    options = {ast.unparse(one.target) for one in body if isinstance(one, ast.AnnAssign)}
    assert {"exporter", "opset_version", "graph_end"} <= options


def test_a_name_that_is_not_assigned_has_no_value() -> None:
    with pytest.raises(ValueError, match="unpack"):
        class_attribute("detexport.export.onnx.Onnx", "no_such_attribute")
