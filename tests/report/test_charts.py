from typing import Any

import pytest

from detexport.report.charts import (
    PLOT_HEIGHT,
    PLOT_WIDTHS,
    _extent,
    longest_ms,
    precision_recall,
    share,
    ticks,
    trade_offs,
)
from detexport.report.collect import ReportedJob, ReportedModel

NAMES = (
    "tracing",
    "scripting",
    "onnx",
    "onnx_int8",
    "torch_export",
    "openvino",
    "openvino_bf16",
    "openvino_int8",
)


def runner(p50_ms: float) -> dict[str, float]:
    return {"p50_ms": p50_ms, "p90_ms": 1.2 * p50_ms, "p99_ms": 2 * p50_ms}


def jobs(latencies: dict[str, float], deltas: dict[str, float] | None = None) -> list[ReportedJob]:
    def parity(target: str) -> dict[str, Any]:
        delta = (deltas or {}).get(target, 0.0)
        curve = {"eager": [1.0, 0.5, 0.0], "artifact": [1.0, 0.5 + delta, 0.0]}
        return {
            "passed": delta > -0.02,
            "reasons": [],
            "accuracy": {
                "eager": {"bbox/AP": 0.7},
                "artifact": {"bbox/AP": 0.7 + delta},
                "differences": {"bbox/AP": delta},
                "curves": {"bbox/AP": {"0.50": curve}},
            },
        }

    return [
        ReportedJob(f"m-{target}", "m", target, parity=parity(target), latency={"cpu": runner(ms)})
        for target, ms in latencies.items()
    ]


def model(eager_ms: float = 30) -> ReportedModel:
    latency = {"devices": {"cpu": {"status": "measured", "runners": {"eager": runner(eager_ms)}}}}
    return ReportedModel("m", None, latency=latency)  # type: ignore[arg-type]


def charted(all_jobs: list[ReportedJob], latency_ms: float | None = None) -> Any:
    (chart,) = trade_offs(model(), all_jobs, all_jobs[0], device="cpu", ap_loss=0.01, latency_ms=latency_ms)
    return chart


@pytest.mark.parametrize("spread", [0.0, 0.3, 4.0])
def test_no_label_covers_another_at_any_width(spread: float) -> None:
    chart = charted(jobs({name: 25 + spread * index for index, name in enumerate(NAMES)}))
    assert [point.name for point in chart.points] == ["eager", *NAMES]
    for width in PLOT_WIDTHS:
        boxes = [(*_extent(p.anchor, p.x, len(p.name), width), p.label_y) for p in chart.points]
        for index, (left, right, y) in enumerate(boxes):
            assert 0 < y < PLOT_HEIGHT
            assert left >= -8
            assert right <= width + 8
            for other_left, other_right, other_y in boxes[:index]:
                assert right <= other_left or other_right <= left or abs(y - other_y) >= 12


def test_faster_is_left_and_more_accurate_is_up() -> None:
    chart = charted(jobs({"onnx": 10, "onnx_int8": 5}, {"onnx_int8": -0.03}), latency_ms=8)
    points = {point.name: point for point in chart.points}
    assert points["onnx_int8"].x < points["onnx"].x < points["eager"].x
    assert points["onnx"].y == points["eager"].y < chart.budget_y < points["onnx_int8"].y
    assert points["onnx_int8"].x < chart.budget_x < points["onnx"].x
    assert {name: point.kind for name, point in points.items()} == {
        "eager": "eager",
        "onnx": "shipped",
        "onnx_int8": "failed",
    }


def test_without_an_eager_latency_there_is_no_chart() -> None:
    empty = ReportedModel("m", None)  # type: ignore[arg-type]
    options = {"device": "cpu", "ap_loss": 0.01, "latency_ms": None}
    assert list(trade_offs(empty, jobs({"onnx": 3}), None, **options)) == []


def test_curves_have_their_distance_from_the_eager_model() -> None:
    (chart,) = precision_recall(model(), jobs({"onnx": 1, "onnx_int8": 1}, {"onnx_int8": -0.25}), None)
    assert [(curve.name, curve.distance) for curve in chart.curves] == [
        ("eager", 0.0),
        ("onnx", 0.0),
        ("onnx_int8", 0.25),
    ]
    assert chart.curves[0].path == "M0 0L50 50L100 100"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 80, [0, 20, 40, 60, 80]), (0.684, 0.708, [0.69, 0.7]), (3, 3, [3])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 4) == expected


def test_a_hiccup_of_the_machine_does_not_flatten_the_bars() -> None:
    runners = {"eager": {"p90_ms": 60, "p99_ms": 2000}, "onnx": {"p90_ms": 20, "p99_ms": 21}}
    assert longest_ms({"runners": runners}) == 90
    runners["eager"]["p99_ms"] = 70
    assert longest_ms({"runners": runners}) == 70
    assert (share(45, 90), share(2000, 90)) == ("50.00%", "100.00%")
