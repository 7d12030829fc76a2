"""Time callables in interleaved rounds, so that noise affects all of them equally."""

from collections.abc import Callable, Sequence
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np
from tqdm import tqdm

PERCENTILES = range(0, 101, 5)
"""The percentiles that describe the distribution of a runner's latencies."""
Runner = Callable[[np.ndarray], Any]


def measure_interleaved(
    runners: dict[str, Runner],
    images: Sequence[np.ndarray],
    *,
    warmup: int,
    rounds: int,
    pause_s: float = 0.0,
    baseline: str = "eager",
    synchronize: Callable[[], None] = lambda: None,
    description: str = "benchmark",
) -> dict[str, dict[str, Any]]:
    """Measure the latency of one call of each runner.

    In every round each runner runs once on the same image. The order changes so that each runner follows
    every other equally often: the spinning threads or cold caches that one leaves behind favour none.

    Args:
        runners: callables by name; each takes one image (3, H, W) uint8.
        images: used in turn, one per round.
        warmup: number of rounds that are run and not measured.
        rounds: number of measured rounds.
        pause_s: pause before each call. An engine's threads may spin for some 20 ms after a call (ONNX
            Runtime's do) and take a core from the next runner.
        baseline: the runner that the ratios refer to; if ``runners`` lacks it, there are no ratios.
        synchronize: waits for the device's queue, before and after each call.
        description: label of the progress bar.

    Returns:
        For each runner ``p50_ms``, ``p90_ms``, ``p99_ms``, ``mean_ms``, ``min_ms``, ``runs``,
        ``percentiles_ms`` (of ``PERCENTILES``) and, with a baseline, ``ratio_to_<baseline>``: the median of
        the rounds' ratios, which a slow phase of the machine does not affect.
    """
    orders = balanced_orders(list(runners))
    elapsed_ns = {name: np.empty(rounds, np.int64) for name in runners}
    for index in tqdm(range(-warmup, rounds), desc=description, unit="round"):
        image = images[index % len(images)]
        for name in orders[index % len(orders)]:
            synchronize()
            sleep(pause_s)
            start = perf_counter_ns()
            runners[name](image)
            synchronize()
            duration = perf_counter_ns() - start
            if index >= 0:
                elapsed_ns[name][index] = max(duration, 1)  # a coarse clock may give 0; ratios divide by it
    return {name: _statistics(elapsed_ns, name, baseline) for name in runners}


def balanced_orders(names: list[str]) -> list[list[str]]:
    """Return orders in which each name is at each position, and follows each other name, equally often.

    A Williams design (E. J. Williams, 1949): a zigzag, its rotations and, for an odd number, their reverses.
    """
    count = len(names)
    zigzag = [index // 2 if index % 2 == 0 else count - 1 - index // 2 for index in range(count)]
    orders = [[names[(step + shift) % count] for step in zigzag] for shift in range(count)]
    return orders if count % 2 == 0 else orders + [order[::-1] for order in orders]


def _statistics(elapsed_ns: dict[str, np.ndarray], name: str, baseline: str) -> dict[str, Any]:
    own = elapsed_ns[name]
    statistics: dict[str, Any] = {
        f"p{percent}_ms": _rounded(np.percentile(own, percent) / 1e6) for percent in (50, 90, 99)
    }
    statistics |= {
        "mean_ms": _rounded(own.mean() / 1e6),
        "min_ms": _rounded(own.min() / 1e6),
        "runs": len(own),
        "percentiles_ms": [_rounded(value / 1e6) for value in np.percentile(own, PERCENTILES)],
    }
    if baseline in elapsed_ns:
        statistics[f"ratio_to_{baseline}"] = _rounded(np.median(own / elapsed_ns[baseline]))
    return statistics


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
