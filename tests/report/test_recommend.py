from dataclasses import replace
from typing import Any

import pytest
from budgets import BUDGET

from detexport.errors import ConfigError
from detexport.report.collect import ReportedJob
from detexport.report.recommend import Budget, recommend


def job(target: str, p50_ms: float, *, delta: float = 0.0, passed: bool = True, **fields: Any) -> ReportedJob:
    accuracy = {
        "eager": {"bbox/AP": 0.7},
        "artifact": {"bbox/AP": 0.7 + delta},
        "differences": {"bbox/AP": delta},
    }
    given = {
        "parity": {"passed": passed, "reasons": ["failed"], "artifact_sha256": "a", "accuracy": accuracy},
        "latency": {"cpu": {"p50_ms": p50_ms, "size_bytes": 2_000_000}},
        "registration": {"name": target, "version": "1", "artifact_sha256": "a"},
    }
    return ReportedJob(f"m-{target}", "m", target, **{**given, **fields})


def test_the_fastest_within_the_budget_is_recommended() -> None:
    jobs = [job("slow", 30), job("fast", 10), job("lossy", 5, delta=-0.02), job("wrong", 1, passed=False)]
    found = recommend("m", jobs, replace(BUDGET, ap_loss=0.01))
    assert found.job is jobs[1]
    assert found.candidates == 2
    reasons = {other.target: reason for other, reason in found.others}
    assert reasons["slow"] == "slower: 30 ms"
    assert "box AP \u22120.0200, over the budget of 0.01" in reasons["lossy"]
    assert reasons["wrong"] == "did not pass validation"


@pytest.mark.parametrize(
    ("budget", "fields", "reason"),
    [
        (replace(BUDGET, latency_ms=5), {}, "10 ms, over the budget of 5 ms"),
        (replace(BUDGET, size_mb=1), {}, "2.0 MB, over the budget of 1 MB"),
        (replace(BUDGET, device="cuda"), {}, "latency on cuda not measured"),
        (BUDGET, {"registration": {}}, "not registered: it is not registered"),
        (BUDGET, {"parity": {}}, "not validated"),
    ],
)
def test_nothing_is_recommended_outside_of_it(budget: Budget, fields: dict[str, Any], reason: str) -> None:
    found = recommend("m", [job("only", 10, **fields)], budget)
    assert found.job is None
    assert [reason for _, reason in found.others] == [reason]


def test_a_gain_is_no_loss_and_other_models_do_not_count() -> None:
    other = ReportedJob("other-onnx", "other", "onnx")
    found = recommend("m", [other, job("better", 10, delta=0.5)], replace(BUDGET, ap_loss=0))
    assert found.job is not None
    assert found.others == ()


def test_of_equally_fast_ones_the_smaller_is_recommended() -> None:
    small = job("small", 10, latency={"cpu": {"p50_ms": 10, "size_bytes": 1}})
    assert recommend("m", [job("big", 10), small], BUDGET).job is small


@pytest.mark.parametrize(
    "limits", [{"latency_ms": 0}, {"size_mb": -1}, {"ap_loss": -0.1}, {"ap_loss": float("nan")}]
)
def test_a_budget_that_cannot_be_used(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"report's budget cannot be used.*remedy"):
        replace(BUDGET, **limits)
