"""A result that cannot be read names the file, what is wrong with it, and the stage to run again."""

from pathlib import Path

import pytest

from detexport.errors import DataError
from detexport.results.latency import read_latency, runners_of
from detexport.results.parity_report import read_parity_report
from detexport.results.read import read_object


@pytest.mark.parametrize(
    ("read", "stage"),
    [(read_parity_report, "validate"), (read_latency, "benchmark")],
    ids=["parity report", "latency"],
)
def test_what_is_missing_or_broken_names_the_stage_that_writes_it(read, stage: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(DataError, match=f"run the stage `{stage}` again"):
        read(path)
    for text in ("{", "[]", "{}"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"result\.json"):
            read(path)


def test_an_object_has_any_keys(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"bbox/AP": 0.5}')
    assert read_object(path) == {"bbox/AP": 0.5}
    for text in ("[1]", "{", ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"one\.json cannot be read"):
            read_object(path)


def test_latencies_of_a_target_are_those_of_the_devices_that_ran_it() -> None:
    latency = {
        "devices": {
            "cpu": {"status": "measured", "runners": {"eager": {"p50_ms": 2.0}, "onnx": {"p50_ms": 1.0}}},
            "cuda": {"status": "skipped", "reason": "none"},
        }
    }
    assert runners_of(latency, "onnx") == {"cpu": {"p50_ms": 1.0}}
    assert runners_of(latency, "tracing") == {}
    assert runners_of({}, "onnx") == {}
