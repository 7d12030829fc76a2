"""What every fuzz test checks: an input is read or refused, in bounded time and memory, without a trace."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings

from detexport.errors import LONGEST_MESSAGE, DetexportError

SECONDS = 5.0
"""Of the processor, for one input of some kilobytes."""
SPARE_BYTES = 2 << 30
"""Address space that one input may take beyond what the process has."""
FEW, MANY = 40, 1000
ALLOCATION = ("MemoryError", "allocate")


def fuzzed(examples: int) -> settings:
    """Settings of a property: so many inputs, the same every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let an allocation fail that is out of proportion to any input."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check(read: Callable[[], Any], kind: type[DetexportError]) -> bool:
    """Whether an input was read; refused it must be by one line of the reader's own class of errors."""
    start = time.process_time()
    with limited_memory():
        try:
            read()
        except kind as error:
            message = str(error)
            assert len(message) <= LONGEST_MESSAGE
            assert message.isprintable()
            assert not any(words in message for words in ALLOCATION), message
            return False
        finally:
            taken = time.process_time() - start
            assert taken < SECONDS, f"{taken:.1f} s"
    return True
