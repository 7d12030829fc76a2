"""Numbers in the report's words: few digits, with their unit."""

from detexport.results.job_metrics import speedup

DASH = "\u2013"
ROUNDED = 5e-5
"""A smaller delta of a metric is shown as none: metrics have four digits."""


def number(value: float | None, unit: str = "") -> str:
    """Return a measured value with its unit in few digits; a dash if it is None."""
    if value is None:
        return DASH
    return f"{_short(value)} {unit}".rstrip()


def _short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def metric(value: float | None) -> str:
    """Return a metric in [0, 1] in three digits; a dash if it is None."""
    return DASH if value is None else f"{value:.3f}"


def delta(value: float) -> str:
    """Return the difference of a metric from the eager model's, with its sign."""
    return "\u00b10" if abs(value) < ROUNDED else f"{value:+.4f}".replace("-", "\u2212")


def size(size_bytes: float) -> str:
    """Return a file's size in MB, or in kB below 1 MB."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"


def speed(ratio: float) -> str:
    """Return a ratio of latencies in words."""
    if 0.98 <= ratio <= 1.02:
        return "as fast as eager"
    return f"{speedup(ratio):.2f}\u00d7 faster" if ratio < 1 else f"{ratio:.2f}\u00d7 slower"


def percent(fraction: float) -> str:
    """Return a fraction in percent; a small one as below 1 %."""
    if 0 < fraction < 0.01:
        return "< 1 %"
    return f"{100 * fraction:.0f} %" if fraction < 100 else "over 10000 %"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_upper(text: str) -> str:
    """Return a text with its first letter in upper case; a symbol such as mIoU stays as it is."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]
