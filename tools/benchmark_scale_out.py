"""Measure the Ray engine with one and with several workers on this machine; extrapolate to large runs.

    python tools/benchmark_scale_out.py --model-dir outputs/models/mask_rcnn --document docs/scale_out.md

Run it on an idle machine; with 2 CPUs it takes about 5 minutes. Each round measures every number of workers
once, in alternating order, each in a Ray of its own whose start is not counted.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from PIL import Image
from typer import Option, echo

from detexport.batch_prediction.location import Location
from detexport.execution.engine import Command, Resources
from detexport.execution.ray_data import RayData
from detexport.execution.ray_engine import Ray
from detexport.execution.sessions import WorkerSessions
from detexport.parity.settings import default_settings
from detexport.parity.validate import validate_sessions
from detexport.reference.resume import Progress
from detexport.reference.store import read_reference
from detexport.system.files import read_json, write_json
from detexport.system.script import run
from detexport.workflows.choose_runtime import engine_of
from detexport.workflows.predict_folder import Request, ResultFormat, predict_folder

BEGIN, END = "<!-- figures of tools/benchmark_scale_out.py -->", "<!-- end of the figures -->"
IMAGES, JOBS = 10_000_000, 10_000
WORKERS = (1, 2, 64, 256)
"""Numbers of workers that the large runs are extrapolated to."""
HOUR = 3600.0


def main(
    model_dir: Annotated[Path, Option(help="folder of a model of the pipeline, with the artifact onnx")],
    save_to: Annotated[Path, Option(help="JSON file for the figures")] = Path("outputs/scale_out.json"),
    document: Annotated[Path | None, Option(help="page to write the figures into")] = None,
    outcomes: Annotated[Path, Option(help="outcomes.json of tools/run_jobs.py: time of each stage")] = Path(
        "outputs/logs/outcomes.json"
    ),
    images: Annotated[int, Option(help="number of images to predict")] = 120,
    repeats: Annotated[int, Option(help="times that the reference's inputs are validated in a round")] = 1,
    jobs: Annotated[int, Option(help="number of jobs: an export, then a prediction with its artifact")] = 4,
    commands: Annotated[int, Option(help="number of empty commands")] = 20,
    rounds: Annotated[int, Option(help="rounds")] = 2,
    workers: Annotated[int, Option(help="the larger number of workers")] = 2,
) -> None:
    """Write the time per input, image, job and command with 1 and WORKERS workers, and the efficiency."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (the name is Ray's)
    model_dir = model_dir.resolve()
    measured: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_images(Path(folder) / "images", images)
        for index in range(rounds):
            for number in (1, workers) if index % 2 == 0 else (workers, 1):
                for name, seconds in one_round(
                    number, model_dir, pictures, repeats, jobs, commands, Path(folder)
                ):
                    measured.setdefault(name, {}).setdefault(number, []).append(seconds)
                    echo(f"round {index + 1}, {number} workers: {name} {seconds:.4f} s")
    figures = {
        "cpus": os.cpu_count(),
        "workers": workers,
        "rounds": rounds,
        "model": model_dir.name,
        "measured": {name: summary(by_workers, workers) for name, by_workers in measured.items()},
        "job_cpu_s": job_cpu_seconds(outcomes),
    }
    write_json(save_to, figures)
    echo("\n".join(table(figures)))
    if document is not None:
        write_section(document, table(figures))


def one_round(
    number: int,
    model_dir: Path,
    images: Path,
    repeats: int,
    jobs: int,
    commands: int,
    folder: Path,
) -> Iterator[tuple[str, float]]:
    """Yield the seconds per item of each kind of work, on a local Ray instance of ``number`` workers."""
    engine = Ray(address="local", cpus=number, memory_mb=500, shard_items=8)
    started = perf_counter()
    engine.connect()
    yield "start of Ray", perf_counter() - started
    try:
        artifact_dir = model_dir / "artifacts/onnx"
        stored = read_reference(model_dir / "reference")
        sessions = WorkerSessions(engine, engine_of(artifact_dir, ""), artifact_dir)

        def validate_all() -> None:
            validate_sessions(
                sessions, stored, default_settings().tolerance, job="measured", progress=Progress()
            )

        validate_all()  # each worker opens the artifact
        yield "input of a validation", timed(validate_all, repeats) / len(stored.samples)
        chains = [job_commands(model_dir, images, folder / f"job{index}") for index in range(jobs)]
        yield "job", timed(lambda: run_chains(engine, chains, number), 1) / jobs
        empty = [[command(folder / f"empty{index}", "-c", "")] for index in range(commands)]
        yield "empty command", timed(lambda: run_chains(engine, empty, number), 1) / commands

        output = folder / "found"
        request = Request(
            str(artifact_dir), Location.of(str(images)), Location.of(str(output)), part_images=8
        )

        def predict() -> None:
            shutil.rmtree(output, ignore_errors=True)
            predict_folder(request, RayData(engine, number), ResultFormat.PARQUET)

        yield "image of a prediction", timed(predict, 1) / len(list(images.iterdir()))
    finally:
        engine.stop()


def timed(work: Callable[[], None], times: int) -> float:
    """Return the seconds of one call, the mean of ``times`` calls."""
    start = perf_counter()
    for _ in range(times):
        work()
    return (perf_counter() - start) / times


def command(folder: Path, *arguments: str) -> Command:
    """Return a command of Python with its own folder."""
    folder.mkdir(exist_ok=True)
    return Command(arguments, folder, folder / "log", {}, 600)


def job_commands(model_dir: Path, images: Path, folder: Path) -> list[Command]:
    """Return the commands of a job: the export of a model by tracing, then a prediction with the artifact."""
    artifact = str(folder / "tracing")
    config, weights = model_dir / "build/config.yaml", model_dir / "weights/model.safetensors"
    model = ("--config-file", str(config), "--weights", str(weights))
    export = (
        "-m",
        "detexport.cli",
        "export",
        *model,
        "--target",
        "tracing",
        "--no-check",
        "--output",
        artifact,
    )
    predict = ("-m", "detexport.cli", "predict", artifact, str(min(images.iterdir())))
    return [command(folder, *export), command(folder, *predict)]


def run_chains(engine: Ray, chains: Sequence[Sequence[Command]], number: int) -> None:
    """Run chains of commands side by side, each command once the one before it has ended."""

    def one(chain: Sequence[Command]) -> None:
        for command in chain:
            if engine.run(command, Resources()).code:
                raise RuntimeError(f"a command failed: {command.log.read_text()}")

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(one, chains))


def write_images(folder: Path, count: int) -> Path:
    """Write JPEG images of 640 x 480 px that take as long to decode as photographs."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(count):
        steps = random.normal(0, 3, (480, 640, 3))
        pixels = (np.cumsum(steps, axis=1) + 128).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:06d}.jpg")
    return folder


def summary(by_workers: dict[int, list[float]], workers: int) -> dict[str, Any]:
    """Return the medians of both numbers of workers, and the efficiency: speed-up / number of workers."""
    one, many = median(by_workers[1]), median(by_workers[workers])
    return {
        "seconds_1": one,
        f"seconds_{workers}": many,
        "efficiency": one / many / workers,
        "rounds": {str(number): values for number, values in by_workers.items()},
    }


def job_cpu_seconds(outcomes: Path) -> dict[str, float]:
    """Return the mean CPU time of each stage of a job; empty if no jobs were run."""
    if not outcomes.is_file():
        return {}
    by_stage: dict[str, list[float]] = {}
    for name, outcome in read_json(outcomes).items():
        by_stage.setdefault(name.partition("@")[0], []).append(outcome["cpu_seconds"])
    return {stage: mean(values) for stage, values in by_stage.items()}


def table(figures: dict[str, Any]) -> list[str]:
    """Return the lines of the page: the measurements, and the extrapolated runs."""
    workers = figures["workers"]
    lines = [
        f"Measured on {figures['cpus']} CPUs with `{figures['model']}` as ONNX, one thread per worker: "
        f"medians of {figures['rounds']} rounds.",
        "A job is an export by tracing, then a prediction with its artifact, each in its own process. The",
        "time of an image includes the start of the actors.",
        "",
        f"| item | 1 worker | {workers} workers | efficiency |",
        "|---|---|---|---|",
    ]
    for name, one in figures["measured"].items():
        efficiency = "" if name == "start of Ray" else f"{one['efficiency']:.2f}"
        lines.append(
            f"| {name} | {one['seconds_1']:.3f} s | {one[f'seconds_{workers}']:.3f} s | {efficiency} |"
        )
    lines += ["", f"| run | CPU hours | {' | '.join(f'{number} workers' for number in WORKERS)} |"]
    lines.append("|---" * (len(WORKERS) + 2) + "|")
    lines.append(large_run(f"{IMAGES:,} images", figures["measured"]["image of a prediction"], IMAGES))
    lines.append(large_run(f"{JOBS:,} jobs", figures["measured"]["job"], JOBS))
    if figures["job_cpu_s"]:
        own = figures["measured"]["empty command"]["seconds_1"]
        stages = figures["job_cpu_s"]
        seconds = sum(stages.values()) + len(stages) * own
        efficiency = figures["measured"]["job"]["efficiency"]
        whole = {"seconds_1": seconds, "efficiency": efficiency}
        lines.append(large_run(f"{JOBS:,} jobs with all stages of the pipeline", whole, JOBS))
        shares = ", ".join(f"{stage} {value:.1f} s" for stage, value in sorted(stages.items()))
        lines += ["", f"CPU time of the stages of a job: {shares}; the engine adds {own:.2f} s to each."]
    else:
        lines += ["", "Run `make jobs` first to have the stages of the pipeline, too."]
    return lines


def large_run(name: str, item: dict[str, float], count: int) -> str:
    """Return the row of a large run: hours by number of workers, at the measured efficiency."""
    total = item["seconds_1"] * count / HOUR
    hours = [total if number == 1 else total / number / item["efficiency"] for number in WORKERS]
    return f"| {name} | {total:,.0f} | {' | '.join(f'{value:,.1f} h' for value in hours)} |"


def write_section(page: Path, lines: list[str]) -> None:
    """Replace the text between the marks of the figures."""
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        sys.exit(f"{page} has no section of figures: {BEGIN} ... {END}")
    page.write_text(f"{head}{BEGIN}\n{chr(10).join(lines)}\n{END}{tail}", encoding="utf-8")
    echo(json.dumps({"written": str(page)}))


if __name__ == "__main__":
    run(main)
