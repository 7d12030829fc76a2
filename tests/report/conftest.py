"""What the stages write for one model and two jobs, of which one does not pass."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detexport.benchmark import Candidate, LatencyReport, benchmark, describe_machine
from detexport.parity.validate import validate_artifact
from detexport.processing.postprocess import postprocess
from detexport.reference.store import SampleMeta, read_reference, write_reference
from detexport.runtime import default_engine
from detexport.runtime.onnxruntime import OnnxRuntime
from detexport.system.files import read_json, write_json
from tiny_artifacts import tiny_contract, tiny_image, write_tiny_onnx
from tolerances import TOLERANCE


@dataclass(frozen=True)
class LosesOne:
    """An engine whose sessions lose the best detection."""

    def open(self, artifact_dir: Path, device: str = "cpu") -> Any:
        session = OnnxRuntime(threads=1).open(artifact_dir, device)

        class Lossy:
            artifact = session.artifact
            device = session.device

            def __call__(
                self, image: np.ndarray, output_size: tuple[int, int] | None = None
            ) -> dict[str, np.ndarray]:
                return {name: value[1:] for name, value in session(image, output_size).items()}

        return Lossy()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages write for one model and two jobs, of which one does not pass."""
    root = tmp_path_factory.mktemp("run")
    model = root / "models" / "tiny"
    eager = default_engine(write_tiny_onnx(model / "artifacts" / "onnx").format).open(
        model / "artifacts" / "onnx"
    )
    write_tiny_onnx(model / "artifacts" / "lost")
    contract = tiny_contract()
    write_json(model / "build" / "contract.json", contract.to_json())
    samples = []
    for image_id in (1, 2):
        image = tiny_image(brightness=(200, 90, 60 * image_id))
        meta = SampleMeta(f"{image_id:04d}-1x", image_id, f"<{image_id}>.png", (30, 50), (60, 100), 1.0)
        samples.append((meta, image, postprocess(eager(image), (30, 50), (60, 100), contract)))
    write_reference(
        model / "reference",
        samples,
        contract=contract,
        environment={"versions": {"torch": "2.0"}, "threads": 1},
    )
    reference = read_reference(model / "reference")
    digests = {}
    for target, engine in [("onnx", OnnxRuntime(threads=1)), ("lost", LosesOne())]:
        report = validate_artifact(
            engine, model / "artifacts" / target, reference, TOLERANCE, job=f"tiny-{target}", draw=1
        )
        report.save(model / "parity" / f"{target}.json", model / "parity" / f"{target}_drawn.npz")
        digests[target] = report.artifact_sha256
    candidates = [
        Candidate("eager", lambda device: eager, 1),
        Candidate("onnx", lambda device: eager, 2_500_000),
    ]
    cpu = benchmark(candidates, [samples[0][1]], "cpu", warmup=0, rounds=2)
    skipped = {"status": "skipped", "reason": "no CUDA device on this machine"}
    settings = {"threads": 1, "rounds": 2}
    LatencyReport(describe_machine(), settings, digests, {"cpu": cpu, "cuda": skipped}).save(
        model / "latency.json"
    )
    write_json(
        root / "registered.json",
        {
            "tracking_uri": "http://name:secret@registry.example:5000/x",
            "registered": [
                {
                    "job": "tiny-onnx",
                    "name": "tiny-onnx",
                    "version": 3,
                    "artifact_sha256": digests["onnx"],
                    "registered_at": "2026-01-02T03:04:05+00:00",
                    "git_revision": "0123456789abcdef",
                }
            ],
            "refused": [{"job": "tiny-lost", "reasons": ["parity did not pass"]}],
        },
    )
    write_json(
        root / "promoted.json",
        {
            "decisions": [
                {
                    "job": "tiny-onnx",
                    "name": "tiny-onnx",
                    "version": "3",
                    "decision": "promoted",
                    "reasons": [],
                    "numbers": {"latency_cpu_p50_ms": {"candidate": 4.5, "champion": 5.0, "limit": 5.5}},
                    "champion_before": "2",
                    "champion_after": "3",
                }
            ]
        },
    )
    write_json(root / "data" / "dataset.json", {"name": "dots", "images": {"train": 9, "val": 2}})
    write_json(root / "checkpoints" / "tiny.json", {"bbox/AP": 0.61, "seed": 1})
    return root


ACCURACY = {
    "images": 2,
    "budget": 0.01,
    "eager": {"bbox/AP": 0.7083, "segm/AP": 0.6963},
    "artifact": {"bbox/AP": 0.7071, "segm/AP": 0.6963},
    "differences": {"bbox/AP": -0.0012, "segm/AP": 0.0},
    "per_class": {"bbox/AP": {"circle": {"objects": 9, "eager": 0.7083, "artifact": 0.7071}}},
}
MODELS = ("mask_rcnn", "panoptic_fpn", "semantic_segmentor")
TARGETS = ("tracing", "scripting", "onnx")


@pytest.fixture(scope="module")
def three_models(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with three models and three jobs each, which passed: of the size of a real run."""
    root = tmp_path_factory.mktemp("three_models")
    receipts, decisions = read_json(run / "registered.json"), read_json(run / "promoted.json")
    registered, decided = [], []
    for model in MODELS:
        folder = root / "models" / model
        shutil.copytree(run / "models/tiny", folder)
        latency = read_json(folder / "latency.json")
        runners = latency["devices"]["cpu"]["runners"]
        for target in TARGETS:
            shutil.copy(run / "models/tiny/parity/onnx_drawn.npz", folder / f"parity/{target}_drawn.npz")
            verdict = read_json(run / "models/tiny/parity/onnx.json")
            write_json(folder / f"parity/{target}.json", {**verdict, "accuracy": ACCURACY})
            write_tiny_onnx(folder / "artifacts" / target)
            runners[target] = runners["onnx"]
            named = {"job": f"{model}-{target}", "name": f"{model}-{target}"}
            registered.append({**receipts["registered"][0], **named, "model": model, "target": target})
            decided.append({**decisions["decisions"][0], **named})
        write_json(folder / "latency.json", latency)
    write_json(root / "registered.json", {**receipts, "registered": registered, "refused": []})
    write_json(root / "promoted.json", {"decisions": decided})
    shutil.copytree(run / "data", root / "data")
    return root
