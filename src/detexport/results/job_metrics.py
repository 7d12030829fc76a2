"""The metrics of one job, and their names: the same in DVC, MLflow, the promotion gate and the report."""

from collections.abc import Iterator, Mapping
from typing import Any

from detexport.parity.measures import MEASURES

OUTPUTS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "proposals": "proposal"}
"""The word for the output that each kind of COCO evaluation is about."""
AREAS = {"s": "small", "m": "medium", "l": "large"}
MEGABYTE = 1_000_000
EAGER_DEVICE = "cpu"
"""The device whose speed-up has no device in its name."""


def job_metrics(
    verdict: Mapping[str, Any],
    runners: Mapping[str, Mapping[str, Any]],
    size_bytes: int | None = None,
) -> dict[str, float | bool]:
    """Return the metrics of one job, flat, task metrics first; a metric that was not measured is left out.

    ``passed``; the task metrics (``ap_box``, ``ap_mask``, ``ap_keypoint``, ``ar_proposal_100``, ``pq``,
    ``miou``) in [0, 1] with their difference from the eager model's (``..._delta``) and their variants
    (``ap_box_50``, ``ap_box_small``); for each device ``latency_cpu_p50_ms``, ``..._p90_ms``, ``..._p99_ms``,
    ``..._mean_ms``, ``load_cpu_s`` and ``speedup_vs_eager`` (on another device than the CPU
    ``speedup_vs_eager_cuda``), larger than 1 if the target is faster; ``size_mb``, the artifact's files; the
    largest errors (``box_error_px_max``, ``score_error_max``, ...); ``detections_expected``,
    ``detections_actual`` and ``detections_paired`` of all inputs.

    Args:
        verdict: a parity report, as JSON.
        runners: the target's latency by device, see ``runners_of``.
        size_bytes: size of the artifact's files; None takes it from the latency.
    """
    sizes = [size_bytes, *(runner.get("size_bytes") for runner in runners.values())]
    size = next((size for size in sizes if size is not None), None)
    return {
        "passed": bool(verdict["passed"]),
        **dict(_accuracy(verdict.get("accuracy") or {"artifact": {}, "differences": {}})),
        **dict(pair for device, runner in runners.items() for pair in _latency(device, runner)),
        **({} if size is None else {"size_mb": round(size / MEGABYTE, 3)}),
        # Without paired detections an error is None, not 0.
        **{error_name(name): worst for name, worst in verdict["max"].items() if worst is not None},
        **{f"detections_{name}": count for name, count in verdict["detections"].items()},
    }


SUMMARY = {
    "passed": "passed",
    "latency_cpu_p50_ms": "p50_ms",
    "speedup_vs_eager": "speedup",
    "size_mb": "size_mb",
    "box_error_px_max": "box_px",
    "objectness_error_max": "objectness_err",
    "mask_error_px_max": "mask_px",
    "keypoint_error_px_max": "keypoint_px",
    "sem_seg_error_max": "logit_err",
    "panoptic_error_ratio_max": "panoptic_err",
}
"""The metrics of a summary, and the names that they have there: a table of jobs must fit a terminal.

The score error is not among them: DVC rounds to five decimals, and would show 0.
"""
DIGITS = 3


def speedup(ratio_to_eager: float) -> float:
    """Return how many times faster than eager a target is, rounded once: the same number everywhere.

    Args:
        ratio_to_eager: its latency relative to the eager model's, not 0.
    """
    return round(1 / ratio_to_eager, 2)


def job_summary(metrics: Mapping[str, float | bool]) -> dict[str, float | bool]:
    """Return the few metrics by which jobs and runs are compared, under short names.

    ``ap`` is the accuracy of the model's most specific output: AP of keypoints, else of masks, else of boxes;
    PQ of a panoptic and mIoU of a semantic segmentation, AR of proposals. ``ap_delta`` is the largest
    decrease of any task metric against the eager model. The others are those of ``SUMMARY``, in three digits;
    ``speedup`` is rounded already.

    Args:
        metrics: from ``job_metrics``.
    """
    deltas = {
        name.removesuffix("_delta"): value for name, value in metrics.items() if name.endswith("_delta")
    }
    accuracy = (
        {"ap": round(metrics[[*deltas][-1]], 4), "ap_delta": round(min(deltas.values()), 4)} if deltas else {}
    )
    chosen = {short: metrics[name] for name, short in SUMMARY.items() if name in metrics}
    return {
        **accuracy,
        **{
            name: value if isinstance(value, bool) or name == "speedup" else float(f"{value:.{DIGITS}g}")
            for name, value in chosen.items()
        },
    }


def accuracy_name(metric: str) -> str:
    """Return the readable name of a task metric: ``ap_mask_50`` for ``segm/AP50``."""
    kind, _, name = metric.partition("/")
    if kind not in OUTPUTS:  # panoptic/PQ_th, sem_seg/mIoU
        return name.lower()
    average, variant = name[:2].lower(), name[2:]
    return "_".join(filter(None, (average, OUTPUTS[kind], AREAS.get(variant, variant))))


def accuracy_words(metric: str) -> str:
    """Return a task metric in words: ``mask AP50`` for ``segm/AP50``."""
    kind, _, name = metric.partition("/")
    return f"{OUTPUTS[kind]} {name}" if kind in OUTPUTS else name


def error_name(measure: str) -> str:
    """Return the readable name of the largest error of a measure; a ratio over all inputs keeps its name."""
    of_samples = measure not in MEASURES or MEASURES[measure].of_samples
    return f"{measure}_max" if of_samples else measure


def _accuracy(accuracy: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the task metrics, each with its difference from the eager model's, then the others."""
    reached, differences = accuracy["artifact"], accuracy["differences"]
    for metric, difference in differences.items():
        yield accuracy_name(metric), reached.get(metric, 0.0)
        yield f"{accuracy_name(metric)}_delta", difference
    yield from (
        (accuracy_name(metric), value) for metric, value in reached.items() if metric not in differences
    )


def _latency(device: str, runner: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for statistic in ("p50_ms", "p90_ms", "p99_ms", "mean_ms"):
        yield f"latency_{device}_{statistic}", runner[statistic]
    yield f"load_{device}_s", runner["load_s"]
    if runner.get("ratio_to_eager"):  # missing if the eager model could not be measured
        name = "speedup_vs_eager" if device == EAGER_DEVICE else f"speedup_vs_eager_{device}"
        yield name, speedup(runner["ratio_to_eager"])
