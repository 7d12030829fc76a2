"""The card of a version: whole for each kind of model, and no markup of names breaks it."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_project import folder, toy_artifact, toy_job, write_project

from detexport.contract import Contract
from detexport.registry.card import describe_version
from detexport.registry.content import Content
from detexport.registry.evidence import Evidence
from detexport.system.files import read_json, write_json
from tiny_artifacts import KINDS, tiny_contract


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("card")
    write_project(root)
    return root


def card(root: Path, contract: Contract | None = None, license: str = "", **verdict: Any) -> str:
    artifact = toy_artifact(root)
    artifact = replace(artifact, contract=contract) if contract else artifact
    files = folder(root)
    evidence = Evidence(
        "onnx",
        {**read_json(files / "parity/onnx.json"), **verdict},
        read_json(files / "latency.json"),
        read_json(files / "parity/onnx_certificate.json"),
        {"git.revision": "abc"},
        files / "reference",
        files / "parity/onnx_drawn.npz",
        license=license,
    )
    return describe_version("toy-onnx", Content(artifact, toy_job(root).runtime), evidence)


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_names_the_outputs_of_its_kind(root: Path, kind: str) -> None:
    contract = tiny_contract(**KINDS[kind])
    text = card(root, contract)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        *("# toy-onnx", "## Input", "## Validation", "## Latency", "## Limits of use", "## Licence")
    ]
    words = {"keypoints": "keypoints", "semantic": "semantic segmentation", "proposals": "proposal boxes"}
    words |= {"panoptic": "panoptic segmentation", "instances": "boxes, scores, classes, masks"}
    assert words[kind] in text.splitlines()[2]
    assert ("`score_threshold`" in text) == ("scores" in contract.output_names)
    assert ("`masks`" in text) == ("pred_masks" in contract.output_names)


def test_a_name_of_a_class_is_no_markup(root: Path) -> None:
    names = ("a|b", "<script>alert(1)</script>", "c\nd")
    text = card(root, tiny_contract(class_names=names))
    assert "| classes | 3: a\\|b, &lt;script>alert(1)&lt;/script>, c d |" in text


def test_a_card_states_reduced_precision_gaps_and_the_licence(root: Path) -> None:
    accuracy = {"artifact": {"bbox/AP": 0.5}, "differences": {"bbox/AP": -0.001}, "budget": 0.005}
    gaps = {"gaps": ["no input without a detection"]}
    text = card(root, license="CC0-1.0", tolerance=None, accuracy=accuracy, input_coverage=gaps)
    assert "| bbox/AP | 0.5000 | -0.0010 |" in text
    assert "- Computes in reduced precision: only its task metric" in text
    assert "- Not validated: no input without a detection." in text
    assert "Weights: CC0-1.0." in text


def test_a_busy_machine_is_named(root: Path) -> None:
    path = folder(root) / "latency.json"
    calm = read_json(path)
    busy = copy.deepcopy(calm)
    for runner in busy["devices"]["cpu"]["runners"].values():
        runner["p90_ms"] = 2 * runner["p50_ms"]
    try:
        write_json(path, busy)
        assert "Measured on a busy machine" in card(root)
    finally:
        write_json(path, calm)
    assert "busy" not in card(root)
