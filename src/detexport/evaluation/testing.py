"""Output and comparison of metrics."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from detexport.errors import DetexportError

logger = logging.getLogger(__name__)


def print_csv_format(results: Mapping[str, Mapping[str, float] | float]) -> None:
    """Log the main metrics as comma-separated lines that can be copied to a table.

    Args:
        results: by task and name; metrics of single classes, such as ``AP-person``, are left out.
    """
    for task, metrics in results.items():
        if not isinstance(metrics, Mapping):
            logger.info("copypaste: %s=%s", task, metrics)
            continue
        main = {name: value for name, value in metrics.items() if "-" not in name}
        logger.info("copypaste: Task: %s", task)
        logger.info("copypaste: %s", ",".join(main))
        logger.info("copypaste: %s", ",".join(f"{value:.4f}" for value in main.values()))


def verify_results(cfg: Any, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare metrics with ``cfg.TEST.EXPECTED_RESULTS``.

    Args:
        cfg: entries are task, name, expected value and tolerance.
        results: by task and name.

    Returns:
        True: they agree.

    Raises:
        DetexportError: one is missing, is not finite, or differs by more than its tolerance.
    """
    for task, name, expected, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = results.get(task, {}).get(name)
        if actual is None or not math.isfinite(actual) or abs(actual - expected) > tolerance:
            raise DetexportError(
                "the metrics are not the expected ones",
                got=f"{task} {name}: {actual}",
                expected=f"{expected} +- {tolerance}",
            )
    return True


def flatten_results_dict(results: Mapping[str, Any]) -> dict[str, float]:
    """Return nested metrics by path, such as ``"bbox/AP"``."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in flatten_results_dict(value).items()}
        else:
            flat[name] = value
    return flat
