import json
from pathlib import Path

import numpy as np
import pytest

from detexport.benchmark import Candidate, LatencyReport, benchmark
from detexport.benchmark.run import choose_images
from detexport.reference.store import SampleMeta, read_reference, write_reference
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.runtime.torchscript import TorchScript
from tiny_artifacts import tiny_contract, tiny_image

NOTHING = {
    "pred_boxes": np.zeros((0, 4), np.float32),
    "scores": np.zeros(0, np.float32),
    "pred_classes": np.zeros(0, np.int64),
}


def candidates(tiny_onnx: Path, tiny_scripting: Path) -> list[Candidate]:
    return [
        Candidate("eager", lambda device: TorchScript(threads=1).open(tiny_scripting, device), 10),
        Candidate("onnx", lambda device: OnnxRuntime(threads=1).open(tiny_onnx, device), 20),
    ]


def test_real_sessions_are_measured(tiny_onnx: Path, tiny_scripting: Path, tmp_path: Path) -> None:
    images = [tiny_image(), tiny_image(brightness=(90, 90, 90))]
    result = benchmark(candidates(tiny_onnx, tiny_scripting), images, "cpu", warmup=1, rounds=4)
    assert result["status"] == "measured"
    assert result["image_size"] == [30, 50]
    assert result["failed"] == {}
    assert result["peak_rss_bytes"] > 2**20
    assert result["runners"]["onnx"]["size_bytes"] == 20
    for statistics in result["runners"].values():
        assert (
            0 < statistics["min_ms"] <= statistics["p50_ms"] <= statistics["p90_ms"] <= statistics["p99_ms"]
        )
        assert statistics["runs"] == 4
        assert statistics["ratio_to_eager"] > 0
        assert statistics["load_s"] > 0

    LatencyReport({"cores": 2}, {"rounds": 4}, {"onnx": "ab"}, {"cpu": result}).save(
        tmp_path / "latency.json"
    )
    assert json.loads((tmp_path / "latency.json").read_text())["devices"]["cpu"] == result


def test_what_cannot_be_measured_is_named_and_the_rest_is_measured(
    tiny_onnx: Path, tiny_scripting: Path
) -> None:
    def fails_to_run(image: np.ndarray) -> None:
        raise RuntimeError("out of registers")

    broken = [
        Candidate("absent", lambda device: OnnxRuntime().open(tiny_onnx, "tpu"), 0),
        Candidate("broken", lambda device: fails_to_run, 0),
    ]
    all_candidates = [*candidates(tiny_onnx, tiny_scripting), *broken]
    result = benchmark(all_candidates, [tiny_image()], "cpu", warmup=0, rounds=1)
    assert list(result["runners"]) == ["eager", "onnx"]
    assert result["failed"]["absent"].startswith("RuntimeUnavailableError: ONNX Runtime cannot run on 'tpu'")
    assert result["failed"]["broken"] == "RuntimeError: out of registers"


@pytest.mark.parametrize(("count", "expected"), [(1, ["1-1x"]), (9, ["1-1x", "2-1x"])])
def test_images_are_of_one_size_and_scale(count: int, expected: list[str], tmp_path: Path) -> None:
    sizes = {"0-1x": (20, 30), "1-1x": (30, 20), "1-1.5x": (45, 30), "2-1x": (30, 20), "2-1.5x": (45, 30)}
    images = {id: np.full((3, *size), number, np.uint8) for number, (id, size) in enumerate(sizes.items())}
    samples = [
        (SampleMeta(id, int(id[0]), "f.png", size, (9, 9), float(id[2:-1])), images[id], NOTHING)
        for id, size in sizes.items()
    ]
    write_reference(tmp_path / "reference", samples, contract=tiny_contract(), environment={})
    chosen = choose_images(read_reference(tmp_path / "reference"), count)
    assert [int(image[0, 0, 0]) for image in chosen] == [list(sizes).index(id) for id in expected]


def test_a_device_on_which_nothing_runs_is_skipped_with_the_reasons() -> None:
    def broken(device: str) -> None:
        raise RuntimeError(f"no kernel image for {device}")

    measured = benchmark(
        [Candidate("eager", broken, 1), Candidate("tracing", broken, 1)],
        [np.zeros((3, 8, 8), np.uint8)],
        "cuda",
        warmup=0,
        rounds=1,
    )
    assert measured["status"] == "skipped"
    assert "no kernel image for cuda" in measured["reason"]
