"""The result of comparing some of an image's fields, and the words for errors beyond the tolerance."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class FieldComparison:
    """The comparison of some of an image's fields.

    Args:
        errors: the largest error by name, see ``detexport.parity.measures``.
        numerics: numerical errors beyond the tolerance, in words.
        matching: missing and extra detections that are not excused, in words.
        broken: violations of the contract, in words.
    """

    errors: dict[str, float] = field(default_factory=dict)
    numerics: tuple[str, ...] = ()
    matching: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def absolute_errors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return absolute differences in float64, in which those of float32 values cannot overflow."""
    errors: np.ndarray = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return errors


def largest(errors: np.ndarray) -> float:
    """Return the largest error; 0 if there is none."""
    return float(errors.max(initial=0))


def beyond(
    name: str, unit: str, errors: np.ndarray, limits: np.ndarray, counted: str = "pairs"
) -> tuple[str, ...]:
    """Describe how many errors exceed their limits, with the worst; empty if none does."""
    indices = np.flatnonzero(errors > limits)
    if not len(indices):
        return ()
    worst = indices[np.argmax(errors.flat[indices])]
    return (
        f"{name}: {len(indices)} of {errors.size} {counted} beyond the tolerance, "
        f"worst {errors.flat[worst]:.4g} {unit} (limit {limits.flat[worst]:.4g})".replace("  ", " "),
    )
