"""Verdicts and latencies that somebody wrote: read whole, or refused before anything is registered."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from toy_project import folder, write_project

from detexport.errors import DataError
from detexport.registry.card import describe_latency, describe_validation
from detexport.registry.evidence import Evidence
from detexport.results.latency import read_latency
from detexport.results.parity_report import read_parity_report
from fuzzing import check, fuzzed, mutated_trees


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("project")
    write_project(root)
    verdict = json.loads((folder(root) / "parity/onnx.json").read_text())
    verdict["accuracy"] = {"artifact": {"bbox/AP": 0.5}, "differences": {"bbox/AP": 0.0}, "budget": 0.001}
    return {"verdict": verdict, "latency": json.loads((folder(root) / "latency.json").read_text())}


def use(reports: dict[str, Any], where: Path) -> Evidence:
    """Read both, and tell all that is registered of them."""
    for name, report in reports.items():
        (where / f"{name}.json").write_text(json.dumps(report))
    verdict, latency = read_parity_report(where / "verdict.json"), read_latency(where / "latency.json")
    evidence = Evidence("onnx", verdict, latency, {"sha256": "0" * 64}, {}, where, where)
    assert [*describe_validation(evidence), *describe_latency(evidence)]
    assert all(isinstance(value, float) for value in evidence.metrics.values())
    return evidence


def without_one(value: Any) -> Iterator[Any]:
    """Copies of nested dicts and lists, each without one of their entries."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        changed = copy.deepcopy(value)
        del changed[key]
        yield changed
        for inner in without_one(value[key]):
            yield (
                {**value, key: inner} if isinstance(value, dict) else [*value[:key], inner, *value[key + 1 :]]
            )


def test_whole_reports_are_told(reports: dict[str, Any], tmp_path: Path) -> None:
    metrics = use(reports, tmp_path).metrics
    assert metrics["ap_box"] == 0.5
    assert metrics["latency_cpu_p50_ms"] == 5.0


def test_a_report_that_lacks_an_inner_field_is_refused_or_told_without_it(
    reports: dict[str, Any], tmp_path: Path
) -> None:
    refused = 0
    for changed in without_one(reports):
        if changed.keys() == reports.keys():
            refused += not check(lambda changed=changed: use(changed, tmp_path), DataError)
    assert refused > 20


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("verdict", "samples", 0, "passed"), r"verdict\.json\.samples\[0\]\.passed: missing"),
        (("verdict", "detections", "paired"), r"verdict\.json\.detections\.paired: missing"),
        (("verdict", "accuracy", "budget"), r"verdict\.json\.accuracy\.budget: missing"),
        (("verdict", "tolerance", "box_px"), "no limit box_px"),
        (("latency", "devices", "cpu", "runners"), r"latency\.json\.devices\.cpu\.runners: missing"),
        (("latency", "devices", "cpu", "runners", "onnx", "p99_ms"), r"runners\.onnx\.p99_ms: missing"),
    ],
)
def test_the_field_that_is_missing_is_named(
    reports: dict[str, Any], place: tuple[Any, ...], said: str, tmp_path: Path
) -> None:
    changed: Any = copy.deepcopy(reports)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    with pytest.raises(DataError, match=said):
        use(changed, tmp_path)


def test_forged_reports(reports: dict[str, Any], tmp_path: Path) -> None:
    @fuzzed()
    @given(mutated_trees(reports["verdict"]), mutated_trees(reports["latency"]))
    def property_of(verdict: Any, latency: Any) -> None:
        check(lambda: use({"verdict": verdict, "latency": reports["latency"]}, tmp_path), DataError)
        check(lambda: use({"verdict": reports["verdict"], "latency": latency}, tmp_path), DataError)

    property_of()


def test_a_registered_report_may_lack_limits_that_were_added_later(
    reports: dict[str, Any], tmp_path: Path
) -> None:
    report = copy.deepcopy(reports["verdict"])
    del report["tolerance"]["box_px"]
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(report), encoding="utf-8")
    assert read_parity_report(path, registered=True) == report
