"""The stages `describe_machine`, `benchmark_targets`, `benchmark`: a small model, a tiny artifact."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from detexport.artifact import read_artifact
from detexport.checkpoint import write_state_dict
from detexport.config.cfg import load_cfg
from detexport.modeling import build_model
from detexport.reference.store import SampleMeta, write_reference
from detexport.system.files import write_json
from tiny_artifacts import tiny_contract, tiny_image, write_tiny_onnx

ROOT = Path(__file__).parents[2]
NOTHING = {
    "pred_boxes": np.zeros((0, 4), np.float32),
    "scores": np.zeros(0, np.float32),
    "pred_classes": np.zeros(0, np.int64),
}


def stage(name: str, workspace: Path, **arguments: str) -> subprocess.CompletedProcess[str]:
    options = [item for key, value in arguments.items() for item in (f"--{key.replace('_', '-')}", value)]
    command = [sys.executable, str(ROOT / "stages" / f"{name}.py"), *options]
    # Without a device, also on a machine that has one.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )


def params_of(jobs: dict[str, tuple[str, str, str]], **sections: Any) -> str:
    """Parameters with the jobs ``{name: (model, target, artifact)}``, whose artifacts are all exported."""
    listed = {
        name: dict(zip(("model", "target", "artifact"), job, strict=True)) for name, job in jobs.items()
    }
    return yaml.safe_dump({"jobs": listed, "exports": listed, "conversions": {}, **sections})


def test_the_candidates_change_with_their_own_artifact_and_runtime_alone(tmp_path: Path) -> None:
    artifacts, targets = tmp_path / "artifacts", {"one": {"runtime": {"threads": 1}}}
    for name in ("onnx", "left"):
        write_tiny_onnx(artifacts / name)
    unfinished = artifacts / ".int8.partial-abc"
    unfinished.mkdir()

    def candidates() -> dict[str, Any]:
        jobs = {"tiny-one": ("tiny", "one", "onnx"), "other-two": ("other", "two", "elsewhere")}
        sections = {"conversions": {"tiny-int8": {"model": "tiny", "artifact": "int8", "source": "onnx"}}}
        (tmp_path / "params.yaml").write_text(params_of(jobs, targets=targets, **sections))
        options = {"model": "tiny", "artifacts_dir": "artifacts", "save_to": "found.json"}
        done = stage("benchmark_targets", tmp_path, **options)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
        return found

    first = candidates()
    assert first == {
        "one": {
            "artifact": "onnx",
            "sha256": read_artifact(artifacts / "onnx").sha256,
            "runtime": {"threads": 1},
        }
    }
    assert sorted(path.name for path in artifacts.iterdir()) == [unfinished.name, "onnx"]
    write_tiny_onnx(artifacts / "another")
    targets["two"] = {"runtime": {"threads": 2}}
    assert candidates() == first
    targets["one"]["runtime"]["threads"] = 2
    second = candidates()
    assert second != first
    write_tiny_onnx(artifacts / "onnx", weights_sha256="c" * 64)
    assert candidates() != second


def test_eager_and_targets_are_measured_and_cuda_is_skipped_visibly(tmp_path: Path) -> None:
    cfg = load_cfg(ROOT / "conf" / "detectron2" / "mask_rcnn.yaml")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "config.yaml").write_text(cfg.dump())
    write_json(tmp_path / "build" / "contract.json", tiny_contract().to_json())
    state_dict = build_model(cfg).state_dict()
    write_state_dict(state_dict, tmp_path / "weights" / "model.safetensors")
    artifact = write_tiny_onnx(tmp_path / "artifacts" / "onnx")
    image = tiny_image(64, 96)
    meta = SampleMeta("1-1x", 1, "1.png", (64, 96), (64, 96), 1.0)
    write_reference(
        tmp_path / "reference", [(meta, image, NOTHING)], contract=tiny_contract(), environment={}
    )
    settings = yaml.safe_load((ROOT / "conf" / "benchmark" / "default.yaml").read_text())
    runtime = {"_target_": "detexport.runtime.onnxruntime.OnnxRuntime", "threads": 0}
    broken = {"_target_": "detexport.runtime.torchscript.TorchScript", "threads": 0}
    jobs = {
        "tiny-onnx": ("tiny", "onnx", "onnx"),
        "tiny-broken": ("tiny", "broken", "onnx"),
        "other-onnx": ("other", "elsewhere", "onnx"),
    }
    targets = {"onnx": {"runtime": runtime}, "broken": {"runtime": broken}}
    few = {**settings, "warmup": 1, "rounds": 2}
    (tmp_path / "params.yaml").write_text(params_of(jobs, targets=targets, benchmark=few))

    assert stage("describe_machine", tmp_path, save_to="machine.json").returncode == 0
    options = {"model": "tiny", "artifacts_dir": "artifacts", "save_to": "benchmark_targets.json"}
    listed = stage("benchmark_targets", tmp_path, **options)
    assert listed.returncode == 0, listed.stderr
    result = stage(
        "benchmark",
        tmp_path,
        model="tiny",
        build="build",
        weights="weights",
        artifacts_dir="artifacts",
        targets="benchmark_targets.json",
        reference="reference",
        machine="machine.json",
        save_to="latency.json",
    )
    assert result.returncode == 0, result.stderr
    assert "cuda: skipped no CUDA device on this machine" in result.stdout
    latency = json.loads((tmp_path / "latency.json").read_text())
    assert latency["machine"] == json.loads((tmp_path / "machine.json").read_text())
    assert latency["settings"]["rounds"] == 2
    assert latency["artifacts"] == {"onnx": artifact.sha256, "broken": artifact.sha256}
    cpu = latency["devices"]["cpu"]
    assert list(cpu["runners"]) == ["eager", "onnx"]
    assert cpu["runners"]["eager"]["ratio_to_eager"] == 1
    assert cpu["image_size"] == [64, 96]
    assert cpu["failed"]["broken"].startswith("ArtifactError")
    weights_size = (tmp_path / "weights" / "model.safetensors").stat().st_size
    assert cpu["runners"]["eager"]["size_bytes"] == weights_size
