"""Benchmark: the eager model and its targets, interleaved in one process, on each device that is here."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from typer import Option, echo

from detexport.artifact import read_artifact
from detexport.benchmark import Candidate, LatencyReport, benchmark
from detexport.benchmark.run import choose_images
from detexport.checkpoint import load_weights, read_state_dict
from detexport.config.cfg import load_cfg
from detexport.config.params import load_params
from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.modeling import build_model
from detexport.processing.postprocess import postprocess
from detexport.reference.store import read_reference
from detexport.system.files import read_json
from detexport.system.script import run
from stage import instantiate

NO_CUDA: dict[str, Any] = {"status": "skipped", "reason": "no CUDA device on this machine"}


def main(
    model: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    artifacts_dir: Annotated[Path, Option()],
    reference: Annotated[Path, Option()],
    machine: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the latencies of MODEL and of its jobs' targets to SAVE_TO."""
    params = load_params("benchmark")
    torch.set_num_threads(params.threads)
    torch.backends.cudnn.allow_tf32 = False  # eager is float32, and so are the targets
    jobs = [job for job in load_params("jobs").values() if job.model == model]
    folders = {job.target: artifacts_dir / job.artifact for job in jobs}
    weights_file = weights / "model.safetensors"
    # All are measured to one end, the farthest: what a graph leaves to be done is done after it.
    ends = {read_artifact(folder).graph_end for folder in folders.values()}
    graph_end = "pasted" if "pasted" in ends else "raw"
    eager = partial(open_eager, build, weights_file, graph_end)
    candidates = [Candidate("eager", eager, weights_file.stat().st_size)]
    candidates += [candidate(target, folder, graph_end, params.threads) for target, folder in folders.items()]
    images = choose_images(read_reference(reference), params.images)
    measure = partial(
        benchmark,
        candidates,
        images,
        warmup=params.warmup,
        rounds=params.rounds,
        pause_s=params.pause_s,
    )
    devices = {
        "cpu": measure("cpu"),
        "cuda": measure("cuda", synchronize=torch.cuda.synchronize) if torch.cuda.is_available() else NO_CUDA,
    }
    artifacts = {target: read_artifact(folder).sha256 for target, folder in folders.items()}
    LatencyReport(read_json(machine), dict(params), artifacts, devices).save(save_to)
    for device, measured in devices.items():
        echo(f"{model} on {device}: {measured['status']} {measured.get('reason', '')}")
        for name, statistics in measured.get("runners", {}).items():
            echo(f"  {name}: {statistics['p50_ms']} ms, p90 {statistics['p90_ms']} ms")
        for name, reason in measured.get("failed", {}).items():
            echo(f"  {name}: not measured: {reason}")


def candidate(target: str, folder: Path, graph_end: str, threads: int) -> Candidate:
    """A target in its runtime up to ``graph_end``, with as many threads as everything else."""
    engine = instantiate(load_params(f"targets.{target}.runtime"))
    if engine.threads not in (0, threads):
        raise ConfigError(
            f"the target {target} asks for other threads than the benchmark",
            got=f"targets.{target}.runtime.threads={engine.threads}, benchmark.threads={threads}",
            expected="the same number for all, or 0 in the target",
            remedy=f"-S benchmark.threads={engine.threads}, or leave the target's at 0",
        )
    engine = replace(engine, threads=threads)
    artifact = read_artifact(folder)
    size_bytes = sum((folder / name).stat().st_size for name in artifact.files)

    def open_session(device: str) -> Callable[[np.ndarray], Any]:
        session = engine.open(folder, device)
        if artifact.graph_end == graph_end:
            return session

        def detect(image: np.ndarray) -> dict[str, Any]:
            size = image.shape[1:]
            return postprocess(session(image), size, size, artifact.contract)

        return detect

    return Candidate(target, open_session, size_bytes)


def open_eager(build: Path, weights_file: Path, graph_end: str, device: str) -> Callable[[np.ndarray], Any]:
    """The eager model up to ``graph_end``: raw outputs in numpy, or all that it gives for the image."""
    names = Contract.from_json(read_json(build / "contract.json")).output_names
    cfg = load_cfg(build / "config.yaml")
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval()
    load_weights(model, read_state_dict(weights_file), str(weights_file))

    @torch.inference_mode()
    def predict(image: np.ndarray) -> Any:
        return model([{"image": torch.from_numpy(image)}])[0]

    @torch.inference_mode()
    def detect(image: np.ndarray) -> dict[str, np.ndarray]:
        fields = model.detect([torch.from_numpy(image).to(device)])[0]
        return {name: fields[name].cpu().numpy() for name in names}

    return predict if graph_end == "pasted" else detect


if __name__ == "__main__":
    run(main)
