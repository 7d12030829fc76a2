"""What an export costs: time and peak memory of each artifact of the published Mask R-CNN (ResNet-50, FPN).

    python benchmarks/export.py                     # all of them, into reports/benchmarks/export.json
    python benchmarks/export.py tracing onnx        # these, and what they are made from

Each artifact is made in a process of its own, from random weights: neither time nor memory depends on them.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from tqdm import tqdm
from typer import Argument, Option

from detexport.benchmark.machine import describe_machine
from detexport.files import write_json
from detexport.targets import ARTIFACTS, artifact_chain

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
SIZE = (800, 1216)
CALIBRATION_IMAGES = 8
CHILD = "DETEXPORT_BENCHMARK_FOLDER"


def main(
    artifacts: Annotated[
        list[str] | None, Argument(help=f"of {', '.join(ARTIFACTS)}; by default all")
    ] = None,
    threads: Annotated[int, Option(help="of one operator")] = 2,
    save_to: Annotated[Path, Option(help="the figures, as JSON")] = Path("reports/benchmarks/export.json"),
) -> None:
    """Make each artifact once and write what it took."""
    names = list(dict.fromkeys(part for name in artifacts or ARTIFACTS for part in artifact_chain(name)))
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (bar := tqdm(names, unit="artifact")):
            bar.set_postfix_str(name)
            measured[name] = measure(name, Path(folder), threads)
    write_json(
        save_to,
        {
            "model": CONFIG,
            "image_size": SIZE,
            "threads": threads,
            "machine": describe_machine(),
            "artifacts": measured,
        },
    )
    for name, figures in measured.items():
        typer.echo(f"{name:15}" + "  ".join(f"{key} {value}" for key, value in figures.items()))


def measure(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Make one artifact in a fresh process; its sources lie in the folder.

    Returns:
        ``export_s``, the export alone, without imports and the building of the model; ``process_s``;
        ``peak_gib``, resident memory at its highest; ``size_mib``. Or ``failed``, the reason.
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
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "size_mib": round(size_bytes / 2**20, 1),
    }


def make(name: str, folder: Path) -> float:
    """Make one artifact in this process; the seconds that it took."""
    maker, source = ARTIFACTS[name].maker.build(), ARTIFACTS[name].source
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
    """Noise to calibrate on."""

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
