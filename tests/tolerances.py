"""The one table of tolerances: that which the pipeline uses."""

from pathlib import Path

import yaml

from detexport.parity.compare import Tolerance

_TABLE = yaml.safe_load((Path(__file__).parents[1] / "conf/parity/default.yaml").read_text())["tolerance"]
LIMITS = {name: value for name, value in _TABLE.items() if name != "_target_"}
TOLERANCE = Tolerance(**LIMITS)
