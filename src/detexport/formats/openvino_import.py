"""Import OpenVINO and NNCF without their telemetry."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

REPORTER = "openvino_telemetry"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Hide the telemetry package in this block: OpenVINO and NNCF send an event while they are imported.

    Both work without the package, so here its import fails. If the process has already imported it, nothing
    changes.
    """
    hidden = REPORTER not in sys.modules
    if hidden:
        sys.modules[REPORTER] = None  # type: ignore[assignment]  # makes its import raise ModuleNotFoundError
    try:
        yield
    finally:
        if hidden:
            del sys.modules[REPORTER]
