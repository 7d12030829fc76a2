"""Benchmark a comparison relative to running the two models that it compares: time by step, and memory.

An image of 800 x 1216 px with 100 detections and their masks; the model is the published Mask R-CNN
(ResNet-50, FPN) with random weights. The artifact is assumed to take as long as the eager model. Reading the
stored sample counts as comparing; resizing and pasting, which users need as well, count as running.

    python tools/benchmark_parity_cost.py

Exit code 1 if comparing exceeds its limit, or memory grows with the number of images.
"""

import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
from tqdm import trange
from typer import Exit, Option, run

from detexport.contract import Contract
from detexport.metrics.bootstrap import paired_difference
from detexport.metrics.tallies import Matches
from detexport.outputs import Outputs, pack, unpack
from detexport.parity.compare import compare
from detexport.parity.settings import default_settings
from detexport.processing.postprocess import paste_masks

LIMIT = 0.1
"""Largest time of comparing, as a fraction of that of both models."""

MOST_GROWN_MIB = 50
"""Largest increase of the peak memory by more images: half of one image's masks."""


def main(
    height: Annotated[int, Option(help="of the image, in px")] = 800,
    width: Annotated[int, Option(help="of the image, in px")] = 1216,
    detections: Annotated[int, Option(help="detections per image")] = 100,
    threads: Annotated[int, Option(help="threads of the eager model")] = 2,
    rounds: Annotated[int, Option(help="rounds; each: the model, then every step of the comparison")] = 10,
    images: Annotated[int, Option(help="images for the task metric")] = 100,
) -> None:
    """Print the median time of each step, its ratio to both models, and the memory that comparing adds."""
    torch.set_num_threads(threads)
    expected, actual = (synthetic(height, width, detections) for _ in ("eager", "artifact"))
    actual["pred_boxes"] += np.float32(1e-4)
    steps = np.random.default_rng(0).normal(0, 3, (3, height, width))
    image = (np.cumsum(steps, axis=2) + 128).clip(0, 255).astype(np.uint8)  # as hard to pack as a photograph
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "sample.npz"
        model, example = eager_model(height, width)
        contract = model.contract(tuple(map(str, range(model.num_classes))))
        comparison = comparison_steps(path, image, expected, actual, contract)
        timed(lambda: model(example))
        seconds: dict[str, list[float]] = {name: [] for name in ("eager model", *comparison)}
        for _ in trange(rounds, unit="round", disable=not sys.stderr.isatty()):
            # Interleaved, so that a slow phase of the machine affects all.
            seconds["eager model"].append(timed(lambda: model(example)))
            for name, step in comparison.items():
                seconds[name].append(timed(step))
        before = peak_mib()
        for _ in range(rounds):
            for step in comparison.values():
                step()
        grown = peak_mib() - before
    both = 2 * median(seconds.pop("eager model"))
    print(f"{height} x {width} px, {detections} detections, {threads} threads; median of {rounds}")
    print(f"{'both models':22} {both:8.3f} s an image")
    for name, values in seconds.items():
        print(f"{name:22} {median(values):8.3f} s {median(values) / both:7.1%}")
    total = sum(median(values) for values in seconds.values())
    print(f"{'comparing':22} {total:8.3f} s {total / both:7.1%} (limit {LIMIT:.0%})")
    of_metric = timed(lambda: bootstrap(images, detections))
    print(f"{'bootstrap':22} {of_metric:8.3f} s {of_metric / (images * both):7.1%} of {images} images, once")
    print(f"{'peak memory':22} {peak_mib():8.0f} MiB; {rounds} more images added {grown:.0f} MiB")
    raise Exit(int(total / both > LIMIT or grown > MOST_GROWN_MIB))


def synthetic(height: int, width: int, detections: int) -> Outputs:
    """Return detections of all sizes all over the image; their masks are discs with rough edges."""
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(np.log(150), 0.8, (detections, 2))).clip(10, 700)
    centres = rng.uniform(0, 1, (detections, 2)) * [width, height]
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    boxes = corners.clip(0, [width, height, width, height]).astype(np.float32)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    disc = 1 / (1 + np.exp(6 * (x**2 + y**2 - 0.8)))
    grids = (disc + rng.normal(0, 0.05, (detections, 28, 28))).astype(np.float32)
    return {
        "pred_boxes": boxes,
        "scores": np.sort(rng.random(detections, np.float32))[::-1].copy(),
        "pred_classes": rng.integers(0, 80, detections),
        "pred_masks": paste_masks(grids, boxes, (height, width), threshold=0.5),
    }


def comparison_steps(
    path: Path, image: np.ndarray, expected: Outputs, actual: Outputs, contract: Contract
) -> dict[str, Callable[[], Any]]:
    """Return the steps of a comparison, as in ``detexport.parity.validate``."""
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, image=image, **pack(expected))

    def read() -> Outputs:
        with np.load(path) as arrays:
            return unpack(arrays)

    def read_image() -> np.ndarray:
        with np.load(path) as arrays:
            array: np.ndarray = arrays["image"]
        return array

    def compare_both() -> None:
        verdict = compare(
            expected, actual, tolerance=default_settings().tolerance, contract=contract, scale=1.0
        )
        assert verdict.passed, verdict.reasons

    return {
        "reading the image": read_image,
        "reading the outputs": read,
        "comparing the outputs": compare_both,
    }


def eager_model(height: int, width: int) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """Return the model and its input."""
    from benchmark_eager import random_mask_rcnn

    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return random_mask_rcnn(image).to(memory_format=torch.channels_last), [{"image": image}]


def bootstrap(images: int, detections: int) -> None:
    """Compute one metric's interval for random matches: 80 classes, 7 objects per image on average."""
    paired_difference(*(random_matches(images, detections, seed) for seed in (0, 1)))


def random_matches(images: int, detections: int, seed: int) -> Matches:
    """Return random matches in which a third of the objects are detected."""
    rng = np.random.default_rng(seed)
    number, thresholds = images * detections, 10
    return Matches(
        image=rng.permutation(np.repeat(np.arange(images), detections)),
        category=np.sort(rng.integers(0, 80, number)),
        correct=rng.random((thresholds, number)) < 2.3 / detections,
        ignored=np.zeros((thresholds, number), bool),
        objects=rng.poisson(7 / 80, (80, images)),
        score=rng.random(number),
    )


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def peak_mib() -> float:
    """Return the process's peak resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    run(main)
