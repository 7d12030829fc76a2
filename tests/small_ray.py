"""A small Ray of this machine: two workers of one thread each, at the priority of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

OPTIONS: dict[str, Any] = {"address": "local", "cpus": 2, "memory_mb": 200}


@contextmanager
def small_ray(**options: Any) -> Iterator[Any]:
    """Start it for the block; yield the engine."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from detexport.execution.ray_engine import Ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # by default a busy machine leaves the workers no time
        engine = Ray(**OPTIONS, **options)
        engine.connect()
        try:
            yield engine
        finally:
            engine.stop()
