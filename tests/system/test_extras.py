"""Extras: read from the installed metadata, and named where a package is missing."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from detexport.errors import MissingPackageError, RuntimeUnavailableError
from detexport.system.extras import extra_imports, extras, install_command, require_packages, unmet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_they_are_those_of_the_project() -> None:
    assert set(extras()) == set(PROJECT["optional-dependencies"])
    assert {one.name for one in extras()["torch"]} >= {"torch", "torchvision", "safetensors"}


def test_the_base_install_has_neither_torch_nor_a_runtime() -> None:
    base = {Requirement(text).name for text in PROJECT["dependencies"]}
    large = {"torch", "torchvision", "scipy", "onnx", "onnxruntime", "openvino", "nncf", "mlflow"}
    assert not base & large


def test_a_larger_extra_contains_the_smaller_ones() -> None:
    names = {extra: {one.name for one in requirements} for extra, requirements in extras().items()}
    for part in (
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "openvino-int8",
        "validate",
        "registry",
        "report",
        "serving",
    ):
        assert names[part] <= names["all"] <= names["pipeline"] <= names["dev"]


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "torch"),
        ("scipy", "validate"),
        ("onnxruntime", "onnxruntime"),
        ("nncf", "openvino-int8"),
        ("mlflow", "registry"),
        ("jinja2", "report"),
        ("uvicorn", "serving"),
        ("hydra", "pipeline"),
    ],
)
def test_a_missing_module_is_named_with_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError) as caught, extra_imports():
        __import__(module)
    assert str(caught.value) == f"{module} is not installed; remedy: pip install 'detexport[{extra}]'"
    assert isinstance(caught.value, RuntimeUnavailableError)
    assert isinstance(caught.value, ImportError)


def test_a_module_of_no_extra_keeps_its_error() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, extra_imports():
        __import__("no_such_module_anywhere")
    assert not isinstance(caught.value, MissingPackageError)


def test_code_that_is_not_installed_names_the_package_itself() -> None:
    """As in a registered model, which carries the code: there is no metadata, and no packaging to read it."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(['onnxruntime', 'packaging'])\n"
        "import importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "m.metadata = absent\n"
        "import detexport.runtime.onnxruntime"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("onnxruntime is not installed; remedy: pip install onnxruntime\n")


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"^torch, onnx are not installed; .*\[onnx,torch\]'$"):
        require_packages("torch", "numpy", "onnx")
    require_packages("numpy", "json")


def test_an_extra_that_another_contains_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingPackageError, match=r"detexport\[torch\]"):
        require_packages("scipy", "torch")


def test_the_command_lists_the_extras_in_order() -> None:
    assert install_command(["torch", "onnx"]) == "pip install 'detexport[onnx,torch]'"


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("numpy>=1", []),
        ("numpy>=999", [f"numpy>=999 ({__import__('numpy').__version__} is installed)"]),
        ("no-such-distribution>=1", ["no-such-distribution>=1"]),
        (
            "onnxruntime-gpu>=1",
            ["onnxruntime-gpu>=1 (another package installs onnxruntime: uninstall it first)"],
        ),
    ],
)
def test_a_requirement_is_met_by_a_version_that_it_allows(requirement: str, expected: list[str]) -> None:
    assert unmet([Requirement(requirement)]) == expected


@pytest.mark.parametrize(
    "module",
    [
        *("detexport.modeling", "detexport.structures", "detexport.layers", "detexport.export"),
        "detexport.checkpoint",
    ],
)
def test_a_room_that_needs_torch_says_so_when_it_is_imported(module: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        "MissingPackageError: torch is not installed; remedy: pip install 'detexport[torch]'" in done.stderr
    )
