"""Benchmark the exports: time and peak memory of each artifact of the published Mask R-CNN (ResNet-50, FPN).

    python tools/benchmark_export.py                     # all of them, into reports/benchmarks/export.json
    python tools/benchmark_export.py tracing onnx        # these, and the artifacts they are made from
    make export-benchmark                                # all of them, and docs/benchmarks.md

Each artifact is made in its own process, from random weights: neither time nor memory depends on them.
The exit code is 1 if one failed, or if one of ``LIMITED`` exceeded its limits.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from tqdm import tqdm
from typer import Argument, Option

from coverage_table.table import markdown_table
from detexport.benchmark.machine import describe_machine
from detexport.system.atomic import atomic_file
from detexport.system.files import write_json
from detexport.targets.table import artifact_chain, artifacts

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SIZE = (800, 1216)
CALIBRATION_IMAGES = 8
CHILD = "DETEXPORT_BENCHMARK_FOLDER"
LIMITED = ("tracing", "scripting", "onnx")
"""Artifacts with limits: exports; a conversion may take longer."""
MAX_EXPORT_S = 60
MAX_PEAK_GB = 6
FIGURES = {"export_s": "export, s", "process_s": "process, s", "peak_gb": "memory, GB", "size_mb": "size, MB"}
PAGE = """\
# Time and memory of an export

`make export-benchmark` measures these figures and writes this page; do not edit it. The model is
{model} at {height} x {width} px, with {threads} threads. "Export" is the export
alone, "process" the whole process with imports and model construction, "memory" its peak, "size" that of the
artifact. The limits of {limited} are {max_s} s and {max_gb} GB each.

{table}
{cpu}, {cores} cores, {memory_gib} GiB of memory, {os}
"""


def main(
    names: Annotated[
        list[str] | None, Argument(help=f"some of {', '.join(artifacts())}; by default all")
    ] = None,
    threads: Annotated[int, Option(help="threads of one operator")] = 2,
    save_to: Annotated[Path, Option(help="JSON file for the figures")] = Path(
        "reports/benchmarks/export.json"
    ),
    document: Annotated[
        Path | None, Option(help="folder for benchmarks.md, the table of all artifacts")
    ] = None,
) -> None:
    """Make each artifact once and write its figures; exit code 1 if one failed or exceeded its limits."""
    if document and names:
        raise typer.BadParameter("the table has all artifacts: leave out --document, or name none")
    steps = list(dict.fromkeys(step for name in names or artifacts() for step in artifact_chain(name)))
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (bar := tqdm(steps, unit="artifact")):
            bar.set_postfix_str(name)
            measured[name] = measure(name, Path(folder), threads)
    record = {
        "model": CONFIG,
        "image_size": SIZE,
        "threads": threads,
        "machine": describe_machine(),
        "artifacts": measured,
    }
    write_json(save_to, record)
    if document:
        with atomic_file(document / "benchmarks.md") as temporary:
            temporary.write_text(render(record), encoding="utf-8")
    for name, figures in measured.items():
        typer.echo(f"{name:18}" + "  ".join(f"{key} {value}" for key, value in figures.items()))
    faults = list(faults_of(measured))
    for fault in faults:
        typer.echo(f"error: {fault}", err=True)
    raise typer.Exit(int(bool(faults)))


def faults_of(measured: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a message for each artifact that failed or exceeded its limits."""
    for name, figures in measured.items():
        if "failed" in figures:
            yield f"{name} failed; got: {figures['failed']}"
        elif name in LIMITED:
            for key, most in (("export_s", MAX_EXPORT_S), ("peak_gb", MAX_PEAK_GB)):
                if figures[key] > most:
                    yield f"{name} took too much; got: {key} {figures[key]}; expected: at most {most}"


def render(record: Mapping[str, Any]) -> str:
    """Render the documentation's page in Markdown.

    Args:
        record: the value that ``main`` writes.
    """
    rows = [
        [name, "failed: " + figures["failed"], *[""] * (len(FIGURES) - 1)]
        if "failed" in figures
        else [name, *(str(figures[key]) for key in FIGURES)]
        for name, figures in record["artifacts"].items()
    ]
    height, width = record["image_size"]
    return PAGE.format(
        table=markdown_table(["", *FIGURES.values()], rows),
        height=height,
        width=width,
        model=record["model"],
        threads=record["threads"],
        limited=", ".join(LIMITED),
        max_s=MAX_EXPORT_S,
        max_gb=MAX_PEAK_GB,
        **record["machine"],
    )


def measure(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Make one artifact in a fresh process; the artifacts it is made from are in the folder.

    Returns:
        ``export_s``, without imports and model construction; ``process_s``; ``peak_gb``, peak resident
        memory; ``size_mb``. Or ``failed``, the reason.
    """
    environment = {
        **os.environ,
        CHILD: str(folder),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
    }
    start = perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen([sys.executable, __file__, name], env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = perf_counter() - start
        log.seek(0)
        lines = log.read().strip().splitlines() or ["no message"]
    if os.waitstatus_to_exitcode(status) != 0:
        return {"failed": lines[-1]}
    size_bytes = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
    return {
        "export_s": json.loads(lines[-1]),
        "process_s": round(seconds, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "size_mb": round(size_bytes / 1e6, 1),
    }


def make(name: str, folder: Path) -> float:
    """Make one artifact in this process; return the seconds that it took."""
    maker, source = artifacts()[name].maker.build(), artifacts()[name].source
    if source:
        start = perf_counter()
        maker.convert(folder / source, Images(), folder / name)
        return perf_counter() - start

    import torch

    from detexport.export import Provenance
    from detexport.model_zoo import get_config
    from detexport.modeling import build_model

    torch.manual_seed(0)
    cfg = get_config(CONFIG)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg).eval()
    names = tuple(f"class {index}" for index in range(model.num_classes))
    image = next(iter(Images()))
    start = perf_counter()
    maker.export(
        model,
        image,
        folder / name,
        contract=model.contract(names),
        provenance=Provenance(weights_sha256="random", config_sha256=CONFIG),
    )
    return perf_counter() - start


class Images:
    """Calibration images of noise."""

    def __len__(self) -> int:
        return CALIBRATION_IMAGES

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(0)
        for _ in range(len(self)):
            yield generator.integers(0, 256, (3, *SIZE), np.uint8)


if __name__ == "__main__":
    if CHILD in os.environ:
        print(round(make(sys.argv[1], Path(os.environ[CHILD])), 1))
    else:
        typer.run(main)
