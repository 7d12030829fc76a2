"""The table of targets: what conf/ says too, and options by name."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from detexport.config.instantiate import instantiate
from detexport.errors import ConfigError, MissingPackageError
from detexport.model_zoo import get_class_names
from detexport.parity.accuracy import BUDGETS, MIN_ACCURACY
from detexport.parity.compare import Tolerance
from detexport.targets.table import (
    ARTIFACTS,
    TARGETS,
    artifact_chain,
    build_steps,
    find_target,
    parse_options,
    require_target_packages,
)
from tolerances import TOLERANCE

CONF = Path(__file__).parents[2] / "conf"
SRC = Path(__file__).parents[2] / "src"


def options(group: str) -> dict[str, dict[str, Any]]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / group).glob("*.yaml")}


def plain(part: Any) -> tuple[type, Any]:
    """A dataclass by its values; YAML has lists where the code has tuples."""
    return type(part), json.loads(json.dumps(asdict(part)))


def test_conf_has_the_artifacts_of_the_table_and_no_others() -> None:
    assert options("artifact").keys() == ARTIFACTS.keys()


@pytest.mark.parametrize("name", ARTIFACTS)
def test_conf_makes_an_artifact_as_the_table_does(name: str) -> None:
    option = options("artifact")[name]
    recipe = ARTIFACTS[name]
    assert option.get("source", "") == recipe.source
    maker = option["conversion" if recipe.source else "method"]
    assert plain(instantiate(OmegaConf.create(maker))) == plain(recipe.maker.build())


def test_conf_has_the_targets_of_the_table_and_no_others() -> None:
    assert options("export").keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_conf_runs_a_target_as_the_table_does(name: str) -> None:
    option, target = options("export")[name], TARGETS[name]
    assert (option["artifact"], option.get("precision", "")) == (target.artifact, target.precision)
    assert plain(instantiate(OmegaConf.create(option["runtime"]))) == plain(target.runtime.build())


def test_the_limits_in_the_code_are_those_of_conf() -> None:
    parity = options("parity")["default"]
    assert Tolerance() == TOLERANCE
    assert (parity["budgets"], parity["min_accuracy"]) == (BUDGETS, MIN_ACCURACY)


def test_conf_names_classes_as_the_zoo_does() -> None:
    conf = options("class_names")
    assert conf["coco"]["class_names"] == get_class_names("coco_2017_val")["things"]
    panoptic = get_class_names("coco_2017_val_panoptic_separated")
    assert conf["coco_panoptic"]["class_names"] == {"stuff": panoptic["stuff"]}
    assert panoptic["things"] == conf["coco"]["class_names"]


def test_a_chain_begins_with_an_export() -> None:
    for name in ARTIFACTS:
        chain = artifact_chain(name)
        assert chain[-1] == name
        assert not ARTIFACTS[chain[0]].source
        assert [ARTIFACTS[one].source for one in chain[1:]] == chain[:-1]


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
