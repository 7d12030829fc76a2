from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from detexport.benchmark import measure_interleaved
from detexport.benchmark.latency import balanced_orders

IMAGES = [np.full((3, 4, 5), value, np.uint8) for value in (1, 2, 3)]


class Recorder:
    """Runners that write down who was called with which image."""

    def __init__(self, *names: str) -> None:
        self.calls: list[tuple[str, int]] = []
        self.runners = {name: self._runner(name) for name in names}

    def _runner(self, name: str):
        return lambda image: self.calls.append((name, int(image[0, 0, 0])))


def test_every_round_runs_each_runner_once_on_the_same_image() -> None:
    recorder = Recorder("eager", "tracing", "onnx")
    result = measure_interleaved(recorder.runners, IMAGES, warmup=2, rounds=7)
    rounds = [recorder.calls[start : start + 3] for start in range(0, len(recorder.calls), 3)]
    assert len(rounds) == 9
    for calls in rounds:
        assert {name for name, _ in calls} == set(recorder.runners)
        assert len({image for _, image in calls}) == 1
    assert {image for calls in rounds for _, image in calls} == {1, 2, 3}
    assert {statistics["runs"] for statistics in result.values()} == {7}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_each_runner_is_in_each_place_and_after_each_other_equally_often(count: int) -> None:
    names = [str(number) for number in range(count)]
    orders = balanced_orders(names)
    assert all(sorted(order) == names for order in orders)
    places = Counter((place, name) for order in orders for place, name in enumerate(order))
    assert len(set(places.values())) == 1
    assert len(places) == count * count
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert len(set(followers.values())) <= 1
    assert len(followers) == count * (count - 1)


def test_statistics_of_known_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that the runners themselves turn: no time passes but what they say."""
    clock = {"ns": 0}
    monkeypatch.setattr("detexport.benchmark.latency.perf_counter_ns", lambda: clock["ns"])
    durations = {"eager": iter([10, 20, 30, 40, 1000]), "fast": iter([30, 5, 10, 20, 500])}

    def runner(name: str):
        def run(image: np.ndarray) -> None:
            clock["ns"] += next(durations[name]) * 1_000_000

        return run

    runners = {name: runner(name) for name in durations}
    result = measure_interleaved(runners, IMAGES, warmup=0, rounds=5)
    assert result["eager"] == {
        "p50_ms": 30,
        "p90_ms": 616,
        "p99_ms": 961.6,
        "mean_ms": 220,
        "min_ms": 10,
        "runs": 5,
        "percentiles_ms": [
            10,
            12,
            14,
            16,
            18,
            20,
            22,
            24,
            26,
            28,
            30,
            32,
            34,
            36,
            38,
            40,
            232,
            424,
            616,
            808,
            1000,
        ],
        "ratio_to_eager": 1,
    }
    assert result["fast"]["ratio_to_eager"] == 0.5, (
        "the median of the rounds' ratios, not the ratio of the medians"
    )


def test_a_clock_that_stands_still_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detexport.benchmark.latency.perf_counter_ns", lambda: 0)
    result = measure_interleaved(Recorder("eager", "onnx").runners, IMAGES, warmup=0, rounds=2)
    assert result["onnx"]["ratio_to_eager"] == 1


def test_warm_up_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"ns": 0, "calls": 0}
    monkeypatch.setattr("detexport.benchmark.latency.perf_counter_ns", lambda: clock["ns"])

    def slow_at_first(image: np.ndarray) -> None:
        clock["calls"] += 1
        clock["ns"] += 9_000_000 if clock["calls"] <= 3 else 1_000_000

    result = measure_interleaved({"eager": slow_at_first}, IMAGES, warmup=3, rounds=4)
    assert result["eager"]["p99_ms"] == 1


def test_the_device_is_waited_for_around_every_call() -> None:
    events: list[str] = []
    measure_interleaved(
        {"eager": lambda image: events.append("run")},
        IMAGES,
        warmup=1,
        rounds=1,
        synchronize=lambda: events.append("wait"),
    )
    assert events == ["wait", "run", "wait"] * 2


def test_without_the_baseline_there_are_no_ratios() -> None:
    result = measure_interleaved(Recorder("onnx").runners, IMAGES, warmup=0, rounds=1)
    assert not [key for key in result["onnx"] if key.startswith("ratio")]


def test_the_pause_comes_before_every_call_and_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"ns": 0}
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock["ns"] += 50_000_000

    def run(image: np.ndarray) -> None:
        clock["ns"] += 1_000_000

    monkeypatch.setattr("detexport.benchmark.latency.perf_counter_ns", lambda: clock["ns"])
    monkeypatch.setattr("detexport.benchmark.latency.sleep", sleep)
    result = measure_interleaved({"eager": run, "onnx": run}, IMAGES, warmup=1, rounds=2, pause_s=0.05)
    assert pauses == [0.05] * 6
    assert result["eager"]["p99_ms"] == 1
