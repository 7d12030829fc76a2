"""The pictures for `dvc plots`: what they show, that they do not change, and that they need no network."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from detexport.report.plots import PlottedJob, draw_plots, read_jobs
from detexport.system.files import write_json
from tolerances import LIMITS

SVG = "{http://www.w3.org/2000/svg}"


def verdict(ap: float, per_class: bool = True) -> dict[str, Any]:
    classes = {
        "circle": {"objects": 9, "eager": 0.8, "artifact": ap},
        "none": {"objects": 0, "eager": None, "artifact": None},
    }
    accuracy = {
        "artifact": {"bbox/AP": ap},
        "eager": {"bbox/AP": 0.75},
        "differences": {"bbox/AP": ap - 0.75},
        "budget": 0.02,
        "per_class": {"bbox/AP": classes} if per_class else {},
    }
    return {
        "passed": True,
        "reasons": [],
        "samples": [{"passed": True}],
        "max": {},
        "tolerance": LIMITS,
        "detections": {"expected": 1, "actual": 1, "paired": 1},
        "accuracy": accuracy,
    }


def runner(scale: float) -> dict[str, Any]:
    percentiles = [scale * (1 + index / 20) for index in range(21)]
    return {
        "p50_ms": percentiles[10],
        "p90_ms": percentiles[18],
        "p99_ms": percentiles[20],
        "mean_ms": percentiles[10],
        "load_s": 0.1,
        "percentiles_ms": percentiles,
    }


def latency(*targets: str) -> dict[str, Any]:
    runners = {name: runner(10 / (1 + index)) for index, name in enumerate(("eager", *targets))}
    device = {"status": "measured", "image_size": [40, 64], "runners": runners}
    return {"artifacts": {}, "devices": {"cpu": device, "cuda": {"status": "skipped"}}}


@pytest.fixture
def jobs(tmp_path: Path) -> list[PlottedJob]:
    models = tmp_path / "models"
    for target, ap in (("onnx", 0.75), ("onnx_int8", 0.73)):
        write_json(models / "tiny/parity" / f"{target}.json", verdict(ap))
    write_json(models / "tiny/latency.json", latency("onnx", "onnx_int8"))
    selected = {f"tiny-{name}": {"model": "tiny", "target": name} for name in ("onnx", "onnx_int8")}
    return read_jobs(selected, models)


def texts(path: Path) -> set[str]:
    found = ElementTree.parse(path).iter(f"{SVG}text")
    return {" ".join("".join(node.itertext()).split()) for node in found}


def test_every_job_and_the_eager_model_are_drawn(jobs: list[PlottedJob], tmp_path: Path) -> None:
    draw_plots(jobs, tmp_path / "plots")
    assert {"onnx", "onnx_int8", "eager", "tiny"} <= texts(tmp_path / "plots/accuracy_latency.svg")
    rows = {"tiny eager (cpu)", "tiny onnx (cpu)", "tiny onnx_int8 (cpu)"}
    assert rows <= texts(tmp_path / "plots/latency.svg")
    of_classes = texts(tmp_path / "plots/ap_per_class.svg")
    assert {"circle", "tiny, ap_box", "eager", "onnx", "onnx_int8"} <= of_classes
    assert "none" not in of_classes, "a class without objects has no AP"


def test_the_same_results_give_the_same_bytes(jobs: list[PlottedJob], tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw_plots(jobs, tmp_path / name)
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        text = path.read_text()
        assert "<script" not in text
        assert not re.search(r'(href|src)="(?!#)', text)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    nothing = {"artifacts": {}, "devices": {"cpu": {"status": "skipped"}}}
    draw_plots([PlottedJob("tiny", "onnx", {**verdict(0.5), "accuracy": None}, nothing)], tmp_path)
    assert "no target was measured" in texts(tmp_path / "accuracy_latency.svg")
    assert "no latency distribution was measured" in texts(tmp_path / "latency.svg")
    assert "no AP per class was measured" in texts(tmp_path / "ap_per_class.svg")
