"""The targets that conf/export defines, and options by name."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from detexport.conf_files import read_targets
from detexport.config.instantiation import instantiate
from detexport.errors import ConfigError, MissingPackageError
from detexport.parity.accuracy import FLOAT32
from detexport.parity.settings import default_settings
from detexport.targets.table import (
    artifact_chain,
    artifacts,
    build_steps,
    find_target,
    parse_options,
    require_target_packages,
    targets,
)

EXPORT = Path(__file__).parents[2] / "conf" / "export"


def plain(part: Any) -> tuple[type, Any]:
    """A dataclass by its values; YAML has lists where the code has tuples."""
    return type(part), json.loads(json.dumps(asdict(part)))


def test_each_file_of_conf_defines_the_target_of_its_name() -> None:
    assert [path.stem for path in sorted(EXPORT.glob("*.yaml"))] == list(targets())
    for path in EXPORT.glob("*.yaml"):
        given = yaml.safe_load(path.read_text())
        assert {*given["targets"], *given.get("artifacts", {})} == {path.stem}


@pytest.mark.parametrize("name", artifacts())
def test_hydra_makes_an_artifact_as_the_table_does(name: str) -> None:
    recipe = artifacts()[name]
    option = read_targets()["artifacts"][name]
    node = OmegaConf.create(option["conversion" if recipe.source else "method"])
    assert plain(instantiate(node)) == plain(recipe.maker.build())


@pytest.mark.parametrize("name", targets())
def test_hydra_runs_a_target_as_the_table_does(name: str) -> None:
    node = OmegaConf.create(read_targets()["targets"][name]["runtime"])
    assert plain(instantiate(node)) == plain(targets()[name].runtime.build())


def test_a_target_is_of_an_artifact_and_of_a_precision_with_a_budget() -> None:
    for target in targets().values():
        assert target.artifact in artifacts()
        assert (target.precision or FLOAT32) in default_settings().budgets


def test_a_chain_begins_with_an_export() -> None:
    for name in artifacts():
        chain = artifact_chain(name)
        assert chain[-1] == name
        assert not artifacts()[chain[0]].source
        assert [artifacts()[one].source for one in chain[1:]] == chain[:-1]


def test_an_option_reaches_the_part_that_has_it() -> None:
    assert build_steps("onnx", ["opset_version=18"])["onnx"].opset_version == 18
    assert build_steps("onnx", ["onnx.opset_version=19"])["onnx"].opset_version == 19


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("opset=18", r"got: opset=18; expected: .*onnx\.opset_version=20"),
        ("tracing.opset_version=18", "no such option"),
        ("opset_version", "has no value; got: opset_version; .*remedy: write onnx.opset_version=VALUE"),
        ("opset_vertion=18", r"remedy: did you mean '(onnx\.)?opset_version'"),
        ("opset_version=0", "out of range; got: opset_version=0; expected: 1 or more"),
        (
            "exporter=dynamoo",
            "invalid value of .*; got: exporter=dynamoo; expected: one of dynamo, torchscript; remedy: did",
        ),
        ("opset_version=new", "expected: int, such as opset_version=20"),
        ("opset_version=1.5", "expected: int"),
        ("opset_version=true", "expected: int"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_steps("onnx", [option])


@pytest.mark.parametrize("option", ["onnx_int8.samples=5", "samples=5"])
def test_several_options_reach_their_parts(option: str) -> None:
    given = ["onnx.graph_end=pasted", "float_nodes=[a,b]", option]
    assert parse_options("onnx_int8", given) == {
        "onnx": {"graph_end": "pasted"},
        "onnx_int8": {"float_nodes": ("a", "b"), "samples": 5},
    }


def test_an_unknown_target_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"got: 'tensorrt'; expected: one of .*onnx"):
        find_target("tensorrt")


def test_a_target_asks_for_all_packages_of_its_chain_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "nncf"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"^onnx, nncf are not installed; .*\[onnx,openvino-int8\]"):
        require_target_packages(find_target("openvino_int8"))
    require_target_packages(find_target("tracing"))
