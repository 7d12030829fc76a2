"""A class by its dotted path: its options without an import, their values as text, its packages."""

import ast
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from detexport.errors import ConfigError, MissingPackageError
from detexport.targets.component import Component, DeclaredOption, written_value
from detexport.targets.table import artifacts, find_target, targets

SRC = Path(__file__).parents[2] / "src"
ONNX = "detexport.export.onnx.Onnx"
OPENVINO = "detexport.runtime.openvino.OpenVinoRuntime"


@pytest.mark.parametrize("artifact", artifacts())
def test_the_declared_options_are_those_of_the_class(artifact: str) -> None:
    maker = artifacts()[artifact].maker
    declared = maker.declared_options()
    assert {name: option.default for name, option in declared.items()} == {
        one.name: getattr(maker.build(), one.name) for one in fields(maker.build())
    }
    hints = get_type_hints(type(maker.build()))
    assert {name: option.choices for name, option in declared.items()} == {
        name: get_args(hints[name]) if get_origin(hints[name]) is Literal else () for name in declared
    }


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "detexport.runtime.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"^onnxruntime is not installed; .*\[onnxruntime\]'$"):
        find_target("onnx").runtime.build()


PACKAGES = {"torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"}


@pytest.mark.parametrize(
    "part",
    [*(recipe.maker for recipe in artifacts().values()), *(target.runtime for target in targets().values())],
    ids=lambda part: part.path.rpartition(".")[2],
)
def test_a_part_names_the_packages_that_its_module_imports(part: Component) -> None:
    file = SRC / f"{part.path.rpartition('.')[0].replace('.', '/')}.py"
    tree = [*ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} & PACKAGES <= set(part.packages)
    assert part.packages == type(part.build()).packages


def test_options_of_a_call_replace_those_of_the_component_and_these_the_classs() -> None:
    component = Component(OPENVINO, {"precision": "bf16"})
    assert (Component(OPENVINO).build().precision, component.build().precision) == ("f32", "bf16")
    built = component.build(precision="f32", threads=2)
    assert (built.precision, built.threads) == ("f32", 2)
    assert component.options == {"precision": "bf16"}


def test_declared_options_have_the_components_values_as_defaults() -> None:
    declared = Component(ONNX, {"opset_version": 18}).declared_options()
    assert declared["opset_version"] == DeclaredOption("opset_version", 18)
    assert declared["exporter"].choices == ("dynamo", "torchscript")
    declared = Component(OPENVINO).declared_options()
    assert declared["precision"] == DeclaredOption("precision", "f32", ("f32", "bf16"))


NUMBER = DeclaredOption("samples", 8)
SWITCH = DeclaredOption("compress", default=False)
NAME = DeclaredOption("precision", "f32")
CHOICE = DeclaredOption("exporter", "dynamo", ("dynamo", "torchscript"))
NAMES = DeclaredOption("float_nodes", ("a",))


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        (NUMBER, "1", 1),
        (NUMBER, " 0x10 ", 16),
        (SWITCH, "true", True),
        (SWITCH, "no", False),
        (NAME, "bf16", "bf16"),
        (NAME, "'16'", "16"),
        (NAME, "[", "["),
        (CHOICE, "torchscript", "torchscript"),
        (NAMES, "[]", ()),
        (NAMES, "[b, '1']", ("b", "1")),
    ],
)
def test_a_value_is_read_as_yaml_of_the_defaults_type(option: DeclaredOption, text: str, value: Any) -> None:
    found = option.parse(text, f"{option.name}={text}")
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        (NUMBER, "-1", r"out of range; got: samples=-1; expected: 1 or more, such as samples=8"),
        (NUMBER, "", "expected: int, such as samples=8"),
        (NUMBER, "8.0", "expected: int"),
        (NUMBER, "true", "expected: int"),
        (SWITCH, "1", "expected: bool, such as compress=False"),
        (NAME, "16", "expected: str, such as precision=f32"),
        (CHOICE, "Dynamo", "one of dynamo, torchscript; remedy: did you mean 'dynamo'"),
        (CHOICE, "17", "one of dynamo, torchscript; remedy: choose one"),
        (CHOICE, "[dynamo]", "one of dynamo, torchscript"),
        (NAMES, "b", r"expected: a list of strings, such as float_nodes=\['a'\]"),
        (NAMES, "[1]", "expected: a list of strings"),
        (NAMES, "{b: c}", "expected: a list of strings"),
        (NUMBER, "!!python/object:os.system {}", "expected: int"),
        (NUMBER, "[" * 1500, "expected: int"),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(option: DeclaredOption, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"the option {option.name}\b.*{message}"):
        option.parse(text, f"{option.name}={text}")


@pytest.mark.parametrize("default", [8, False, "f32", ("a", "b"), ()])
def test_a_default_that_is_written_is_read_back(default: Any) -> None:
    assert DeclaredOption("x", default).parse(written_value(default), "x") == default
