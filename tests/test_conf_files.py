"""The files of conf/ that the library reads: in a checkout, in a wheel, in a copy of the package."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from detexport.conf_files import CONF, GROUPS, copy_package, merged, read_defaults, read_targets
from detexport.errors import ConfigError

ROOT = Path(__file__).parents[1]


def test_a_wheel_and_an_sdist_hold_the_groups() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {f"conf/{name}": f"detexport/conf/{name}" for name in GROUPS}
    assert build["sdist"]["only-include"] == ["src", *(f"conf/{name}" for name in GROUPS)]


def test_the_library_reads_no_other_file() -> None:
    names = [
        ast.literal_eval(node.args[0])
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "read_defaults"
    ]
    assert {name.partition("/")[0] for name in names} == {*GROUPS} - {"export"}
    assert CONF == ROOT / "conf"


def test_a_copy_of_the_package_reads_its_own_files(tmp_path: Path) -> None:
    copy = copy_package(tmp_path)
    code = "from detexport.conf_files import *; print(CONF); print(*read_targets()['targets'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(copy / "conf"), " ".join(read_targets()["targets"])]


def test_given_values_replace_defaults_key_by_key() -> None:
    assert merged({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 4}, "e": 5}) == {
        "a": 1,
        "b": {"c": 2, "d": 4},
        "e": 5,
    }
    assert merged({"b": {"c": 2}}, {"b": 3}) == {"b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "onnx.yaml cannot be read"),
        ("- a", "onnx.yaml is not a mapping"),
        ("target: {onnx: {}}", "onnx.yaml does not define a target; got: target: "),
        ("targets: 3", "onnx.yaml does not define a target; got: targets: 3"),
    ],
)
def test_a_file_that_defines_no_target_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "onnx.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_targets(tmp_path)


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read; .*remedy: correct it, or install"):
        read_defaults("parity/none")
