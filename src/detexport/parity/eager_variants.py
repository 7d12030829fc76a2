"""Variants of running the eager model, by which the noise floor is measured."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from detexport.contract import Contract
from detexport.errors import DataError
from detexport.parity.compare import Noise, NoiseOf, SampleParity, Tolerance
from detexport.parity.noise_floor import (
    NoiseFloor,
    Variant,
    choose_samples,
    compare_runs,
    measure_variant,
    noise_between,
)
from detexport.parity.perturbed_eager import rounded
from detexport.reference.batching import group_by_call
from detexport.reference.eager_outputs import run_eager, run_eager_batch
from detexport.reference.resume import Progress
from detexport.reference.store import Reference, Sample
from detexport.system.progress import progress_bar
from detexport.system.versions import package_versions

Open = Callable[[nn.Module], AbstractContextManager[Any]]
"""Opens a variant of a model for the duration of a context; the model itself stays as it is."""


@contextmanager
def repeated(net: nn.Module) -> Iterator[nn.Module]:
    """Run the model the same way again."""
    yield net


@contextmanager
def many_threads(net: nn.Module) -> Iterator[nn.Module]:
    """Run the model with ``most_threads``."""
    before = torch.get_num_threads()
    torch.set_num_threads(most_threads())
    try:
        yield net
    finally:
        torch.set_num_threads(before)


@contextmanager
def channels_last(net: nn.Module) -> Iterator[nn.Module]:
    """Run the model in PyTorch's channels-last memory format, which has other kernels."""
    copied = deepcopy(net)
    yield copied.to(memory_format=torch.channels_last)


@contextmanager
def on_cuda(net: nn.Module, *, tf32: bool) -> Iterator[nn.Module]:
    """Run the model on a GPU, with or without TF32."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield deepcopy(net).to("cuda")
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


@contextmanager
def cuda(net: nn.Module) -> Iterator[nn.Module]:
    """Run the model on a GPU in float32."""
    with on_cuda(net, tf32=False) as moved:
        yield moved


@contextmanager
def cuda_tf32(net: nn.Module) -> Iterator[nn.Module]:
    """Run the model on a GPU with TF32, which is another precision and not noise."""
    with on_cuda(net, tf32=True) as moved:
        yield moved


CPU_VARIANTS: dict[str, Open] = {
    "repeated": repeated,
    "threads": many_threads,
    "channels_last": channels_last,
}
CUDA_VARIANTS: dict[str, Open] = {"cuda": cuda, "cuda_tf32": cuda_tf32}
OWN_RUNS: dict[str, Open] = {
    "channels_last": channels_last,
    **{f"rounding_{seed}": rounded(seed) for seed in (1, 2, 3)},
}
"""Variants that every input of a reference is run in; differences between them are undetermined."""
FURTHER_RUNS: dict[str, Open] = {f"rounding_{seed}": rounded(seed) for seed in range(4, 13)}
"""Further variants for an input on which ``OWN_RUNS`` disagree: few runs show few of the possible orders."""
NO_NOISE = ("cuda_tf32",)
"""Variants that are measured and are not part of the floor."""


def variants() -> dict[str, Open]:
    """Return the variants that this machine can run."""
    return {**CPU_VARIANTS, **(CUDA_VARIANTS if torch.cuda.is_available() else {})}


def most_threads() -> int:
    """Return one thread per core of this process, at least two, so that sums are split on one core, too."""
    return max(2, len(os.sched_getaffinity(0)))


def measure_noise_floor(
    net: nn.Module,
    contract: Contract,
    reference: Reference,
    tolerance: Tolerance,
    images: int,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    budget: float | None = None,
    progress: Progress | None = None,
) -> NoiseFloor:
    """Run the variants of the eager model, and measure their errors against its reference.

    Args:
        net: in evaluation mode; it stays as it is.
        contract: its contract.
        reference: its outputs.
        tolerance: see ``measure_variant``.
        images: number of samples of the reference.
        evaluate: returns the deltas of a model's task metrics to the reference's, by name; used for another
            precision. None if the reference has no metrics.
        budget: largest delta.
        progress: measurements of an interrupted run, which are not repeated.

    Raises:
        DataError: the reference has no sample of one image.
    """
    samples = choose_samples(reference, images)
    if not samples:
        raise DataError(
            "the reference has no sample of one image",
            got=f"{len(reference.samples)} samples, none of them of one image",
            expected="at least one",
            remedy="run the stage `reference` again",
        )
    progress = progress or Progress()

    def measure(name: str, open_variant: Open) -> Variant:
        with open_variant(net) as other:
            run = partial(run_eager, other, contract=contract)
            variant = measure_variant(
                run, samples, tolerance, contract, name=name, counts=name not in NO_NOISE
            )
            if evaluate is not None and name in NO_NOISE:
                variant = replace(variant, differences=evaluate(other), budget=budget)
        return variant

    measured = {
        name: progress.once(f"floor {name}", Variant, partial(measure, name, open_variant))
        for name, open_variant in variants().items()
    }
    own_runs: dict[str, Noise] = {}
    noise_of = measured_noise(net, contract, tolerance)
    for group in progress_bar(group_by_call(reference.samples), desc="noise of each input", unit="input"):
        group_noise = cache(partial(noise_of, group))
        for sample in group:
            measure_it = partial(_of_sample, group_noise, sample.meta.id)
            own_runs[sample.meta.id] = progress.once(f"noise {sample.meta.id}", Noise, measure_it)
    return NoiseFloor(tuple(sample.meta.id for sample in samples), _environment(), measured, own_runs)


def measured_noise(net: nn.Module, contract: Contract, tolerance: Tolerance) -> NoiseOf:
    """Return a function that measures the noise on samples of one call.

    Args:
        net: in evaluation mode; it stays as it is.
        contract: its contract.
        tolerance: the tolerance without the floor.
    """

    def noise_of(group: Sequence[Sample]) -> dict[str, Noise]:
        images, sizes = [sample.image() for sample in group], [sample.meta.output_size for sample in group]
        comparisons: dict[str, list[SampleParity]] = {sample.meta.id: [] for sample in group}
        noise: dict[str, Noise] = {}
        for further in (OWN_RUNS, FURTHER_RUNS):
            runs = {}
            for name, open_run in further.items():
                with open_run(net) as other:
                    runs[name] = run_eager_batch(other, images, sizes, contract)
            for id, compared in compare_runs(group, runs, tolerance, contract).items():
                comparisons[id] += compared
            noise = {sample.meta.id: noise_between(comparisons[sample.meta.id], sample) for sample in group}
            if not any(one.undetermined or one.scores for one in noise.values()):
                break
        return noise

    return noise_of


def _of_sample(group_noise: Callable[[], Mapping[str, Noise]], id: str) -> Noise:
    return group_noise()[id]


def _environment() -> dict[str, Any]:
    """Describe what a floor may depend on."""
    return {
        "threads": most_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": package_versions(),
    }
