"""What a comparison of some of an image's fields gives, and how it says what is beyond the tolerance."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Part:
    """What was measured of some of an image's fields.

    Args:
        errors: the largest error by name, see ``detexport.parity.measures``.
        numerics: where numbers lie beyond the tolerance; empty where none does.
        matching: what was decided otherwise, and not at the edge; empty where nothing was.
        broken: what is promised and not kept.
    """

    errors: dict[str, float] = field(default_factory=dict)
    numerics: tuple[str, ...] = ()
    matching: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()


def differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute differences, in float64, in which the difference of two float32 cannot overflow."""
    difference: np.ndarray = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return difference


def largest(errors: np.ndarray) -> float:
    """The largest error; 0 where there is none."""
    return float(errors.max(initial=0))


def beyond(
    name: str, unit: str, errors: np.ndarray, limits: np.ndarray, counted: str = "pairs"
) -> tuple[str, ...]:
    """Say how many errors exceed their limits, and the worst of them; nothing where none does."""
    indices = np.flatnonzero(errors > limits)
    if not len(indices):
        return ()
    worst = indices[np.argmax(errors.flat[indices])]
    return (
        f"{name}: {len(indices)} of {errors.size} {counted} beyond the tolerance, "
        f"worst {errors.flat[worst]:.4g} {unit} (limit {limits.flat[worst]:.4g})".replace("  ", " "),
    )
