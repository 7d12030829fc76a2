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
from detexport.contract import Contract
from detexport.errors import ConfigError
from detexport.files import read_json
from detexport.modeling import build_model
from detexport.parity.reference import read_reference
from stage import instantiate, load_params, run

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
    candidates = [Candidate("eager", partial(open_eager, build, weights_file), weights_file.stat().st_size)]
    candidates += [candidate(target, folder, params.threads) for target, folder in folders.items()]
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


def candidate(target: str, folder: Path, threads: int) -> Candidate:
    """A target in its runtime, with as many threads as everything else."""
    engine = instantiate(load_params(f"targets.{target}.runtime"))
    if engine.threads not in (0, threads):
        raise ConfigError(
            f"the target {target} asks for other threads than the benchmark",
            got=f"targets.{target}.runtime.threads={engine.threads}, benchmark.threads={threads}",
            expected="the same number for all, or 0 in the target",
            remedy=f"-S benchmark.threads={engine.threads}, or leave the target's at 0",
        )
    engine = replace(engine, threads=threads)
    files = read_artifact(folder).files
    return Candidate(
        target, partial(engine.open, folder), sum((folder / name).stat().st_size for name in files)
    )


def open_eager(build: Path, weights_file: Path, device: str) -> Callable[[np.ndarray], Any]:
    """The eager model up to where the graphs end: masks raw, the contract's outputs in numpy."""
    names = Contract.from_json(read_json(build / "contract.json")).output_names
    cfg = load_cfg(build / "config.yaml")
    cfg.MODEL.DEVICE = device
    model = build_model(cfg).eval()
    load_weights(model, read_state_dict(weights_file), str(weights_file))

    @torch.inference_mode()
    def detect(image: np.ndarray) -> dict[str, np.ndarray]:
        fields = model.detect([torch.from_numpy(image).to(device)])[0]
        return {name: fields[name].cpu().numpy() for name in names}

    return detect


if __name__ == "__main__":
    run(main)
