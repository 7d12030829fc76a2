"""Third-party packages that report to their makers are imported without that."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

REPORTER = "openvino_telemetry"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Import OpenVINO and NNCF within this: both send an event over the network while they are imported.

    Both do without the package that sends where it is not installed, so here it cannot be found. A process
    that imported it before keeps what it has.
    """
    hidden = REPORTER not in sys.modules
    if hidden:
        sys.modules[REPORTER] = None  # type: ignore[assignment]  # what Python's import system refuses
    try:
        yield
    finally:
        if hidden:
            del sys.modules[REPORTER]
