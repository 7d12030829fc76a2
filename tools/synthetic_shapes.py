"""The synthetic data set of ``conf/data/shapes.yaml``, with some options changed."""

from typing import Any

from detexport.conf_files import read_defaults
from detexport.data.synthetic import SyntheticShapes


def shapes_options(**changes: Any) -> dict[str, Any]:
    """Return the options of the data set with its ``_target_``, as the configuration has them."""
    return {**read_defaults("data/shapes")["dataset"], "name": "shapes", **changes}


def synthetic_shapes(**changes: Any) -> SyntheticShapes:
    """Return the data set, which is not written yet."""
    options = shapes_options(**changes)
    del options["_target_"]
    return SyntheticShapes(**options)
