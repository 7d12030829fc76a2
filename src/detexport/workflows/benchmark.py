"""Benchmark a model: eager and all its targets, interleaved in one process, on each device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detexport.artifact import Artifact, read_artifact
from detexport.benchmark import Candidate, LatencyReport, benchmark
from detexport.benchmark.run import choose_images
from detexport.errors import ConfigError
from detexport.processing.postprocess import postprocess
from detexport.reference.store import read_reference
from detexport.system.files import read_json
from detexport.workflows.loaded_model import load_built_model
from detexport.workflows.model_folder import WEIGHTS

NO_CUDA: dict[str, Any] = {"status": "skipped", "reason": "no CUDA device on this machine"}


@dataclass(frozen=True)
class BenchmarkTarget:
    """A target to measure.

    Args:
        engine: its runtime, a frozen dataclass with an option ``threads``.
        artifact_dir: the artifact that it runs.
    """

    engine: Any
    artifact_dir: Path


def benchmark_model(
    build: Path,
    weights: Path,
    targets: Mapping[str, BenchmarkTarget],
    reference: Path,
    machine: Path,
    settings: Mapping[str, Any],
) -> LatencyReport:
    """Measure the latencies of a model and of its targets, with masks pasted if a target pastes them.

    Args:
        build: folder that the stage `build` writes.
        weights: folder that the stage `load_checkpoint` writes.
        targets: by name.
        reference: folder of the images.
        machine: file of the machine's description.
        settings: ``threads``, ``images``, ``warmup``, ``rounds`` and ``pause_s``, as in ``conf/benchmark``.

    Raises:
        ConfigError: a target has another number of threads.
    """
    torch.set_num_threads(settings["threads"])
    torch.backends.cudnn.allow_tf32 = False  # eager is float32, and so are the targets
    artifacts = {name: read_artifact(target.artifact_dir) for name, target in targets.items()}
    graph_end = "pasted" if "pasted" in {one.graph_end for one in artifacts.values()} else "raw"
    eager = partial(_open_eager, build, weights, graph_end)
    candidates = [Candidate("eager", eager, (weights / WEIGHTS).stat().st_size)]
    candidates += [
        _candidate(name, target, artifacts[name], graph_end, settings["threads"])
        for name, target in targets.items()
    ]
    measure = partial(
        benchmark,
        candidates,
        choose_images(read_reference(reference), settings["images"]),
        warmup=settings["warmup"],
        rounds=settings["rounds"],
        pause_s=settings["pause_s"],
    )
    devices = {
        "cpu": measure("cpu"),
        "cuda": measure("cuda", synchronize=torch.cuda.synchronize) if torch.cuda.is_available() else NO_CUDA,
    }
    digests = {name: one.sha256 for name, one in artifacts.items()}
    return LatencyReport(read_json(machine), dict(settings), digests, devices)


def _candidate(
    name: str, target: BenchmarkTarget, artifact: Artifact, graph_end: str, threads: int
) -> Candidate:
    """Return a target in its runtime, with outputs at ``graph_end`` and the benchmark's threads."""
    if target.engine.threads not in (0, threads):
        raise ConfigError(
            f"the target {name} has another number of threads than the benchmark",
            got=f"targets.{name}.runtime.threads={target.engine.threads}, benchmark.threads={threads}",
            expected="the same number for all, or 0 in the target",
            remedy=f"-S benchmark.threads={target.engine.threads}, or leave the target's at 0",
        )
    engine, folder = replace(target.engine, threads=threads), target.artifact_dir

    def open_session(device: str) -> Callable[[np.ndarray], Any]:
        session: Callable[[np.ndarray], Any] = engine.open(folder, device)
        if artifact.graph_end == graph_end:
            return session

        def detect(image: np.ndarray) -> dict[str, Any]:
            size = image.shape[1:]
            return postprocess(session(image), size, size, artifact.contract)

        return detect

    return Candidate(name, open_session, artifact.size_bytes(folder))


def _open_eager(build: Path, weights: Path, graph_end: str, device: str) -> Callable[[np.ndarray], Any]:
    """Return the eager model with raw outputs in numpy, or with post-processed ones if masks are pasted."""
    model = load_built_model(build, weights, device)
    net, names = model.net, model.contract.output_names

    @torch.inference_mode()
    def predict(image: np.ndarray) -> Any:
        return net([{"image": torch.from_numpy(image)}])[0]

    @torch.inference_mode()
    def detect(image: np.ndarray) -> dict[str, np.ndarray]:
        fields = net.detect([torch.from_numpy(image).to(device)])[0]
        return {name: fields[name].cpu().numpy() for name in names}

    return predict if graph_end == "pasted" else detect
