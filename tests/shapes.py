"""The synthetic data set of ``conf/data/shapes.yaml``, with some options changed."""

from typing import Any

from detexport.data.synthetic import SyntheticShapes
from detexport.defaults import read_defaults


def synthetic_shapes(**options: Any) -> SyntheticShapes:
    values = {**read_defaults("data/shapes")["dataset"], "name": "shapes", **options}
    del values["_target_"]
    return SyntheticShapes(**values)
