"""What the benchmark of exports says of its figures; that it makes them is seen when it runs."""

import runpy
from pathlib import Path
from typing import Any

from detexport.benchmark.machine import describe_machine

# Not imported: a stage has its name.
PROGRAM = runpy.run_path(str(Path(__file__).parents[2] / "tools/benchmark_export.py"))
MAX_EXPORT_S, MAX_PEAK_GB = PROGRAM["MAX_EXPORT_S"], PROGRAM["MAX_PEAK_GB"]


def figures(export_s: float, peak_gb: float) -> dict[str, Any]:
    return {"export_s": export_s, "process_s": export_s + 1, "peak_gb": peak_gb, "size_mb": 1.5}


def test_what_failed_or_took_too_much_is_told() -> None:
    measured = {
        "tracing": figures(MAX_EXPORT_S, MAX_PEAK_GB),
        "scripting": figures(MAX_EXPORT_S + 1, MAX_PEAK_GB),
        "onnx": figures(1, MAX_PEAK_GB + 0.01),
        "torch_export": {"failed": "error: no"},
        "aot_inductor": figures(MAX_EXPORT_S + 1, 1),
    }
    assert [fault.split(";")[0] for fault in PROGRAM["faults_of"](measured)] == [
        "scripting took too much",
        "onnx took too much",
        "torch_export failed",
    ]


def test_the_page_has_a_row_an_artifact() -> None:
    measured = {"tracing": figures(2.5, 1.25), "onnx": {"failed": "error: no"}}
    page = PROGRAM["render"](
        {
            "model": "a model",
            "image_size": [800, 1216],
            "threads": 2,
            "machine": describe_machine(),
            "artifacts": measured,
        }
    )
    assert "| tracing | 2.5 | 3.5 | 1.25 | 1.5 |\n| onnx | failed: error: no |  |  |  |\n" in page
    assert "a model at 800 x 1216 px, with 2 threads" in page
