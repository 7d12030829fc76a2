"""The one table of tolerances: that of conf/parity."""

from dataclasses import asdict

from detexport.parity.settings import default_settings

TOLERANCE = default_settings().tolerance
LIMITS = asdict(TOLERANCE)
