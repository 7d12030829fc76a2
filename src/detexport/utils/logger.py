"""Logging of runs."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_FORMAT = "[%(asctime)s %(name)s] %(levelname)s: %(message)s"
_calls: Counter[tuple[Any, ...]] = Counter()
_times: dict[tuple[Any, ...], float] = {}


def setup_logger(
    output: str | Path | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Let a logger write to the standard output of rank 0 and to a file of each process.

    Args:
        output: a file ``*.txt`` or ``*.log``, or a folder for ``log.txt``; None for no file. Ranks above 0
            append their number.
        distributed_rank: number of this process.
        color: without effect: lines have no colours.
        name: name of the logger; ``detectron2`` also configures the logger of this package.
        abbrev_name: without effect: lines have the full name.
        enable_propagation: pass the lines to the parent logger, too.
        configure_stdout: write to the standard output.

    Returns:
        the logger; calling this again adds no further outputs.
    """
    formatter = logging.Formatter(_FORMAT, datefmt="%m/%d %H:%M:%S")
    handlers: dict[str, Callable[[], logging.Handler]] = {}
    if distributed_rank == 0 and configure_stdout:
        handlers["stdout"] = lambda: logging.StreamHandler(stream=sys.stdout)
    if output is not None:
        path = Path(output)
        path = path if path.suffix in (".txt", ".log") else path / "log.txt"
        if distributed_rank > 0:
            path = path.with_name(f"{path.name}.rank{distributed_rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers[str(path)] = lambda: logging.FileHandler(path)
    # Code of this package logs under its own name.
    for logger in map(logging.getLogger, {name, "detexport"} if name == "detectron2" else {name}):
        logger.setLevel(logging.DEBUG)
        logger.propagate = enable_propagation
        present = {handler.name for handler in logger.handlers}
        for key in handlers.keys() - present:
            handler = handlers[key]()
            handler.name = key
            handler.setFormatter(formatter)
            logger.addHandler(handler)
    return logging.getLogger(name)


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """Return a table of one row in Markdown, with the keys as header; numbers have three decimals."""
    cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in small_dict.values()]
    widths = [max(len(key), len(cell), 3) for key, cell in zip(small_dict, cells, strict=True)]

    def row(values: Any) -> str:
        return (
            "| " + " | ".join(f"{value:^{width}}" for value, width in zip(values, widths, strict=True)) + " |"
        )

    return "\n".join(
        [row(small_dict), "|" + "|".join(f":{'-' * width}:" for width in widths) + "|", row(cells)]
    )


def _caller(depth: int = 2) -> tuple[str, str, int]:
    """Return module, file and line of the code that called the logging function."""
    frame = sys._getframe(depth)
    return frame.f_globals.get("__name__", "root"), frame.f_code.co_filename, frame.f_lineno


def log_first_n(
    lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller"
) -> None:
    """Log a message the first ``n`` times.

    Args:
        lvl: level, such as ``logging.INFO``.
        msg: the message.
        n: number of times.
        name: of the logger; by default the calling module.
        key: what is counted: ``"caller"``, the line of the call, ``"message"``, its text, or both.
    """
    caller = _caller()
    kinds = (key,) if isinstance(key, str) else tuple(key)
    counted = (*(caller if "caller" in kinds else ()), *((msg,) if "message" in kinds else ()))
    _calls[counted] += 1
    if _calls[counted] <= n:
        logging.getLogger(name or caller[0]).log(lvl, msg)


def log_every_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log a message once every ``n`` calls from this line, the first time included.

    Args:
        lvl: level, such as ``logging.INFO``.
        msg: the message.
        n: number of calls.
        name: of the logger; by default the calling module.
    """
    caller = _caller()
    _calls[caller] += 1
    if n == 1 or _calls[caller] % n == 1:
        logging.getLogger(name or caller[0]).log(lvl, msg)


def log_every_n_seconds(lvl: int, msg: str, n: int = 1, *, name: str | None = None) -> None:
    """Log a message at most once every ``n`` seconds from this line.

    Args:
        lvl: level, such as ``logging.INFO``.
        msg: the message.
        n: seconds.
        name: of the logger; by default the calling module.
    """
    caller = _caller()
    now = time.monotonic()
    if caller not in _times or now - _times[caller] >= n:
        _times[caller] = now
        logging.getLogger(name or caller[0]).log(lvl, msg)
