"""A workspace as the pipeline leaves it for the register stage: real artifacts, a verdict, a latency."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from detexport.artifact import Artifact, read_artifact
from detexport.outputs import pack
from detexport.parity.certificate import certify
from detexport.parity.settings import default_settings
from detexport.parity.validation_plan import ALWAYS, ValidationPlan, search_of
from detexport.processing.postprocess import postprocess
from detexport.reference.store import SampleMeta, read_reference, write_reference
from detexport.registry.jobs import Job
from detexport.runtime import default_engine
from detexport.system.files import read_json, write_json
from makers import maker
from tiny_artifacts import no_samples, tiny_contract, tiny_image, write_tiny_onnx, write_tiny_torchscript
from tolerances import LIMITS

RUNTIMES = {
    "onnx": "detexport.runtime.onnxruntime.OnnxRuntime",
    "scripting": "detexport.runtime.torchscript.TorchScript",
    "tracing": "detexport.runtime.torchscript.TorchScript",
    "openvino": "detexport.runtime.openvino.OpenVinoRuntime",
}
MODEL = "toy"
# What `conf/parity/default.yaml` asks for, on a model with all kinds of inputs.
FULL_PLAN = ValidationPlan(
    images=8,
    scales=(0.75, 1.0, 1.5),
    kinds={"data": 24, **dict.fromkeys(ALWAYS, 1)},
    search=search_of(default_settings()),
    tolerance=LIMITS,
    precision="float32",
    accuracy_images=100,
    budget=0.001,
    min_accuracy=0.1,
    min_detections=1,
)


def write_project(root: Path, targets: tuple[str, ...] = ("onnx",)) -> None:
    """Write params.yaml, the statistics of the data, and the results of a model, ``toy``, on some targets."""
    write_json(root / "outputs/data_statistics.json", {"train": {"images": 3}})
    runners = {"eager": runner(1.0)}
    artifacts = {}
    for target in targets:
        artifact = write_target(root, target)
        runners[target] = runner(0.5)
        artifacts[target] = artifact.sha256
    device = {"status": "measured", "image_size": [40, 64], "runners": runners, "failed": {}}
    skipped = {"status": "skipped", "reason": "no CUDA device on this machine"}
    machine = {"cpu": "toy", "cores": 2}
    latency = {"machine": machine, "artifacts": artifacts, "devices": {"cpu": device, "cuda": skipped}}
    write_json(folder(root) / "latency.json", latency)
    params = {
        "conversions": {},
        "jobs": {f"{MODEL}-{t}": {"model": MODEL, "target": t, "artifact": t} for t in targets},
        "targets": {t: {"artifact": t, "runtime": {"_target_": RUNTIMES[t], "threads": 1}} for t in targets},
        "models": {MODEL: {"license": "CC0-1.0"}},
        "registry": {"tracking_uri": None, "experiment": "detexport"},
    }
    (root / "params.yaml").write_text(json.dumps(params))  # JSON is YAML


def write_target(root: Path, target: str, **changes: Any) -> Artifact:
    """Write an artifact and its verdict: passed."""
    artifact_dir = folder(root) / "artifacts" / target
    if target == "onnx":
        artifact = write_tiny_onnx(artifact_dir, **changes)
    elif target == "openvino":
        with tempfile.TemporaryDirectory() as temporary:
            write_tiny_onnx(Path(temporary) / "onnx", **changes)
            maker(target).convert(Path(temporary) / "onnx", no_samples(), artifact_dir)
        artifact = read_artifact(artifact_dir)
    else:
        artifact = write_tiny_torchscript(artifact_dir, method=target, **changes)
    write_verdict(root, target, artifact)
    return artifact


def write_verdict(
    root: Path, target: str, artifact: Artifact, *, plan: ValidationPlan | None = None, **changes: Any
) -> None:
    """Write a verdict on an artifact, and its certificate, by default of the full plan."""
    verdict = {
        "job": f"{MODEL}-{target}",
        "passed": True,
        "reasons": [],
        "verdicts": {"numerics": {"passed": True, "judged": True, "reasons": []}},
        "tolerance": LIMITS,
        "artifact_sha256": artifact.sha256,
        "max": {"box_error_px": 0.001, "score_error": 1e-6, "mask_error_px": None, "mask_error_ratio": None},
        "detections": {"expected": 7, "actual": 7, "paired": 7},
        "samples": [{"id": "0-1x", "passed": True}],
        "accuracy": {"artifact": {"bbox/AP": 0.7}, "differences": {"bbox/AP": 0.0}, "budget": 0.001},
        **changes,
    }
    parity = folder(root) / "parity"
    write_json(parity / f"{target}.json", verdict)
    if not (folder(root) / "reference").exists():
        write_toy_reference(folder(root) / "reference", artifact, folder(root) / "artifacts" / target)
    np.savez(parity / f"{target}_drawn.npz", **drawn_outputs(folder(root) / "reference"))
    runtime = {"_target_": RUNTIMES[target], "threads": 1}
    certificate = certify(
        verdict, artifact, reference=folder(root) / "reference", runtime=runtime, plan=plan or FULL_PLAN
    )
    write_json(parity / f"{target}_certificate.json", certificate)


def write_toy_reference(path: Path, artifact: Artifact, artifact_dir: Path) -> None:
    """Store one input, with the artifact's own outputs as those of the eager model."""
    image = tiny_image(40, 53)
    session = default_engine(artifact.format).open(artifact_dir)
    outputs = postprocess(session(image), (40, 53), (40, 53), artifact.contract)
    meta = SampleMeta("0-1x", 1, "1.png", (40, 53), (40, 53), 1.0)
    write_reference(path, [(meta, image, outputs)], contract=artifact.contract, environment={})


def drawn_outputs(reference: Path) -> dict[str, np.ndarray]:
    """The outputs of the input, as `validate` stores them for drawings."""
    (sample,) = read_reference(reference).samples
    return {f"{sample.meta.id}/{name}": value for name, value in pack(sample.expected()).items()}


def write_version(
    root: Path,
    number: int,
    *,
    p50_ms: float = 5.0,
    ap: float = 0.7,
    plan: ValidationPlan | None = None,
    machine: str = "toy",
    **changes: Any,
) -> None:
    """Write the results of another model of the same job, with other weights, latency and AP."""
    weights = f"{number:064x}"
    artifact = write_tiny_onnx(folder(root) / "artifacts" / "onnx", weights_sha256=weights, **changes)
    accuracy = {"artifact": {"bbox/AP": ap}, "differences": {"bbox/AP": 0.0}, "budget": 0.001}
    write_verdict(root, "onnx", artifact, plan=plan, accuracy=accuracy)
    path = folder(root) / "latency.json"
    latency = read_json(path)
    latency["artifacts"]["onnx"], latency["machine"]["cpu"] = artifact.sha256, machine
    latency["devices"]["cpu"]["runners"]["onnx"]["p50_ms"] = p50_ms
    write_json(path, latency)


def runner(ratio: float) -> dict[str, Any]:
    return {
        "p50_ms": 10.0 * ratio,
        "p90_ms": 11.0 * ratio,
        "p99_ms": 12.0 * ratio,
        "mean_ms": 10.5 * ratio,
        "ratio_to_eager": ratio,
        "load_s": 0.1,
        "size_bytes": 12345,
    }


def folder(root: Path) -> Path:
    return root / "outputs" / "models" / MODEL


def toy_job(root: Path, target: str = "onnx") -> Job:
    runtime = {"_target_": RUNTIMES[target], "threads": 1}
    return Job(
        f"{MODEL}-{target}", MODEL, target, target, runtime, folder(root), (f"export@{MODEL}-{target}",)
    )


def toy_artifact(root: Path, target: str = "onnx") -> Artifact:
    return read_artifact(folder(root) / "artifacts" / target)


__all__ = [
    "MODEL",
    "RUNTIMES",
    "folder",
    "tiny_contract",
    "toy_artifact",
    "toy_job",
    "write_project",
    "write_target",
]
