"""Export methods and conversions as the targets make them."""

from typing import Any

from detexport.targets.table import artifacts


def maker(artifact: str, **options: Any) -> Any:
    """The export method or conversion of an artifact, with its defaults in conf/export."""
    return artifacts()[artifact].maker.build(**options)
