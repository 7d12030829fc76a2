"""What a latency report says about the machine."""

from detexport.results.latency import is_noisy


def test_a_busy_machine_is_not_a_single_slow_call() -> None:
    calm = {"p50_ms": 10, "p90_ms": 12, "p99_ms": 400}
    assert not is_noisy({"runners": {"eager": calm}})
    assert is_noisy({"runners": {"eager": calm, "onnx": {"p50_ms": 10, "p90_ms": 16, "p99_ms": 17}}})
