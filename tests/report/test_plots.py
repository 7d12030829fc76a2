"""The pictures for `dvc plots`: what they show, that they do not change, and that they need no network."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from detexport.report.collect import Results, collect
from detexport.report.plots import PLOTS, write_plots
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
def results(tmp_path: Path) -> Results:
    models = tmp_path / "models"
    for target, ap in (("onnx", 0.75), ("onnx_int8", 0.73)):
        write_json(models / "tiny/parity" / f"{target}.json", verdict(ap))
    write_json(models / "tiny/latency.json", latency("onnx", "onnx_int8"))
    jobs = {
        f"tiny-{name}": {"model": "tiny", "target": name, "artifact": "onnx"}
        for name in ("onnx", "onnx_int8")
    }
    return collect(jobs, models)


def texts(path: Path) -> set[str]:
    found = ElementTree.parse(path).iter(f"{SVG}text")
    return {" ".join("".join(node.itertext()).split()) for node in found}


def test_every_job_and_the_eager_model_are_drawn(results: Results, tmp_path: Path) -> None:
    write_plots(results, tmp_path / "plots", ap_loss=0.01)
    of_jobs = texts(tmp_path / "plots/accuracy_latency.svg")
    assert {"onnx", "onnx_int8", "eager", "tiny: box AP, CPU"} <= of_jobs
    of_latencies = texts(tmp_path / "plots/latency.svg")
    assert {"tiny, CPU", "eager", "onnx", "onnx_int8", "15 ms, p90 19, p99 20"} <= of_latencies
    of_classes = texts(tmp_path / "plots/accuracy_by_class.svg")
    assert {"tiny: box AP", "circle", "0.800"} <= of_classes
    bars = "Bars from top to bottom: eager, onnx, onnx_int8. At the right: eager."
    assert bars in of_classes


def test_marks_lie_inside_the_picture(results: Results, tmp_path: Path) -> None:
    write_plots(results, tmp_path, ap_loss=0.01)
    for name in PLOTS:
        picture = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        height = float(picture.get("height", 0))
        ends = [float(one.get("y", 0)) + float(one.get("height", 0)) for one in picture.iter(f"{SVG}svg")]
        assert max(ends[1:]) <= height, name
        assert max(float(one.get("y", 0)) for one in picture.findall(f"{SVG}text")) < height, name


def test_the_same_results_give_the_same_bytes(results: Results, tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_plots(results, tmp_path / name, ap_loss=0.01)
    for path in sorted((tmp_path / "first").iterdir()):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        text = path.read_text()
        assert "<script" not in text
        assert not re.search(r'(href|src)="(?!#)', text)
        assert "url(" not in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    jobs = {"tiny-onnx": {"model": "tiny", "target": "onnx", "artifact": "onnx"}}
    nothing = {"artifacts": {}, "devices": {"cpu": {"status": "skipped"}}}
    write_json(tmp_path / "models/tiny/parity/onnx.json", {**verdict(0.5), "accuracy": None})
    write_json(tmp_path / "models/tiny/latency.json", nothing)
    write_plots(collect(jobs, tmp_path / "models"), tmp_path, ap_loss=0.01)
    assert "no target was measured" in texts(tmp_path / "accuracy_latency.svg")
    assert "no latency was measured" in texts(tmp_path / "latency.svg")
    assert "no accuracy by class was measured" in texts(tmp_path / "accuracy_by_class.svg")
