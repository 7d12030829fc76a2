"""The stages `describe_machine` and `benchmark`: the repository's small model against a tiny artifact."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

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
    job = {"model": "tiny", "artifact": "onnx"}
    params = {
        "jobs": {
            "tiny-onnx": {**job, "target": "onnx"},
            "tiny-broken": {**job, "target": "broken"},
            "other-onnx": {**job, "model": "other", "target": "elsewhere"},
        },
        "targets": {"onnx": {"runtime": runtime}, "broken": {"runtime": broken}},
        "benchmark": {**settings, "warmup": 1, "rounds": 2},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    assert stage("describe_machine", tmp_path, save_to="machine.json").returncode == 0
    result = stage(
        "benchmark",
        tmp_path,
        model="tiny",
        build="build",
        weights="weights",
        artifacts_dir="artifacts",
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
