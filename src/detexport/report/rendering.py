"""The template engine of the report and of the plots for DVC: what all of their templates use."""

from collections.abc import Callable, Mapping
from typing import Any

from detexport.report.by_class import class_rows, measured_metrics
from detexport.report.charts import PLOT_HEIGHT, longest_ms, share
from detexport.report.number_format import delta, first_upper, metric, number, percent, plural, size, speed
from detexport.system.extras import extra_imports

FILTERS: dict[str, Callable[..., Any]] = {
    "class_rows": class_rows,
    "delta": delta,
    "first_upper": first_upper,
    "longest_ms": longest_ms,
    "measured_metrics": measured_metrics,
    "metric": metric,
    "number": number,
    "percent": percent,
    "plural": plural,
    "share": share,
    "size": size,
    "speed": speed,
}


def environment(variables: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]]) -> Any:
    """Return the template engine.

    Args:
        variables: what templates use beside their arguments.
        filters: what they use beside ``FILTERS``.

    Raises:
        MissingPackageError: the template engine is not installed.
    """
    with extra_imports():
        from jinja2 import Environment, PackageLoader, StrictUndefined
    engine = Environment(
        loader=PackageLoader("detexport.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelt name is an error, not an empty string
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.globals |= {"plot_height": PLOT_HEIGHT, **variables}
    engine.filters |= {**FILTERS, **filters}
    return engine
