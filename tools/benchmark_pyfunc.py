"""Measure what a registered version costs beyond its runtime: decoding, pasting, RLE, the pyfunc, MLflow.

All parts are timed within calls of the pyfunc, in CPU time of the calling thread: other processes hardly
change it, and on an idle machine it is that of the clock.

    export MLFLOW_TRACKING_URI=sqlite:///mlflow.db
    python tools/benchmark_pyfunc.py models:/mask_rcnn-onnx@champion image.png
"""

import functools
import inspect
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import mlflow
import pandas as pd  # type: ignore[import-untyped]
from typer import Argument, Option, echo

from detexport.system.script import run

PARTS = {"read_value": "decode", "session": "runtime", "predict": "resize, paste", "to_plain": "RLE"}
"""The functions that the pyfunc calls, and what they do; ``predict`` calls the session."""


def main(
    version: Annotated[str, Argument(help="models:/NAME/NUMBER or models:/NAME@ALIAS.")],
    image: Annotated[Path, Argument(help="PNG or JPEG file.")],
    rounds: Annotated[int, Option(min=1)] = 100,
    warmup: Annotated[int, Option(min=0)] = 5,
) -> None:
    """Print the median time of each part of a call with one image."""
    model = mlflow.pyfunc.load_model(version)
    clock = Clock()
    detector = model.unwrap_python_model()
    names = inspect.unwrap(type(detector).predict).__globals__
    for name in PARTS:
        if name in names:
            names[name] = clock.timed(name, names[name])
    detector.session = TimedSession(detector.session, clock)
    # MLflow reads the signature of the method.
    detector.predict = functools.wraps(detector.predict)(clock.timed("detector", detector.predict))
    predict = clock.timed("pyfunc", model.predict)
    frame = pd.DataFrame({"image": [image.read_bytes()]})
    for _ in range(warmup + rounds):
        predict(frame)
    times = {name: values[warmup:] for name, values in clock.ms.items()}
    times["predict"] = subtract(times["predict"], times["session"])
    own = {
        "pyfunc's code": subtract(times["detector"], *(times[name] for name in PARTS)),
        "MLflow's checks": subtract(times["pyfunc"], times["detector"]),
    }
    runtime = statistics.median(times["session"])
    for name, what in PARTS.items():
        echo(f"{what:16} {statistics.median(times[name]):8.2f} ms")
    for what, values in own.items():
        value = statistics.median(values)
        echo(f"{what:16} {value:8.2f} ms, {value / runtime:.1%} of the runtime")
    echo(f"{'together':16} {statistics.median(times['pyfunc']):8.2f} ms")


def subtract(values: Sequence[float], *others: Sequence[float]) -> list[float]:
    """Return values less those of other sequences, call by call."""
    return [value - sum(rest) for value, *rest in zip(values, *others, strict=True)]


class Clock:
    """The times of named functions, call by call.

    Attributes:
        ms: CPU time of the calling thread, by name.
    """

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = defaultdict(list)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and is timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            start = time.thread_time()
            result = function(*arguments, **options)
            self.ms[name].append((time.thread_time() - start) * 1000)
            return result

        return call


class TimedSession:
    """A loaded artifact whose calls are timed.

    Args:
        session: the loaded artifact.
        clock: takes the times.
    """

    def __init__(self, session: Any, clock: Clock) -> None:
        self.artifact, self.call = session.artifact, clock.timed("session", session)

    def __call__(self, *arguments: Any) -> Any:
        """Run the graph."""
        return self.call(*arguments)


if __name__ == "__main__":
    run(main)
