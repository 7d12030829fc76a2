"""Benchmark: the eager model and its targets, interleaved in one process, on each device of this machine."""

from pathlib import Path
from typing import Annotated

from omegaconf import OmegaConf
from typer import Option, echo

from detexport.config.instantiation import instantiate
from detexport.config.params import load_values
from detexport.system.files import read_json
from detexport.system.script import run
from detexport.workflows.benchmark import BenchmarkTarget, benchmark_model


def main(
    model: Annotated[str, Option()],
    build: Annotated[Path, Option()],
    weights: Annotated[Path, Option()],
    artifacts_dir: Annotated[Path, Option()],
    targets: Annotated[Path, Option(help="the targets to measure, see the stage benchmark_targets")],
    reference: Annotated[Path, Option()],
    machine: Annotated[Path, Option()],
    save_to: Annotated[Path, Option()],
) -> None:
    """Write the latencies of MODEL and of its TARGETS to SAVE_TO."""
    measured = {
        target: BenchmarkTarget(
            instantiate(OmegaConf.create(one["runtime"])), artifacts_dir / one["artifact"]
        )
        for target, one in read_json(targets).items()
    }
    report = benchmark_model(build, weights, measured, reference, machine, load_values("benchmark"))
    report.save(save_to)
    echo("\n".join([f"latency of {model}", *report.describe()]))


if __name__ == "__main__":
    run(main)
