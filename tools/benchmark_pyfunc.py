"""Measure what a registered version costs beyond its runtime: decoding, pasting, RLE, and MLflow's own part.

The runtime is timed within the call of the pyfunc. The other parts run with the functions of the pyfunc,
interleaved with its calls. The own part is the remainder. Times are CPU time of the calling thread, which
other processes hardly change; on an idle machine it is the time of the clock.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import mlflow
import pandas as pd
from typer import Argument, Option, echo

from detexport.data.images import decode_image
from detexport.data.resize import resize_image, resized_size
from detexport.predictions.records import to_plain
from detexport.processing.postprocess import postprocess
from detexport.system.script import run

PARTS = ("decode", "resize", "runtime", "paste", "rle")


def main(
    version: Annotated[str, Argument(help="models:/NAME/NUMBER or models:/NAME@ALIAS.")],
    image: Annotated[Path, Argument(help="PNG or JPEG file.")],
    rounds: Annotated[int, Option(min=1)] = 50,
) -> None:
    """Print the median time of each part in ms, and the pyfunc's own part of the runtime's."""
    model = mlflow.pyfunc.load_model(version)
    detector = model.unwrap_python_model()
    detector.session = session = TimedSession(detector.session)
    encoded = image.read_bytes()
    frame = pd.DataFrame({"image": [encoded]})
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 3):
        seen = measure_parts(session, encoded)
        seen["pyfunc"], _ = timed(lambda: model.predict(frame))
        seen["runtime"] = session.last_ms
        if number >= 3:  # the first calls allocate
            for name, value in seen.items():
                times[name].append(value)
            times["own"].append(seen["pyfunc"] - sum(seen[name] for name in PARTS))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in (*PARTS, "own", "pyfunc"):
        echo(f"{name:8} {medians[name]:8.2f} ms")
    echo(f"own part: {medians['own'] / medians['runtime']:.1%} of the runtime's time")


class TimedSession:
    """A session that remembers the time of its last call.

    Args:
        session: the loaded artifact.
    """

    def __init__(self, session: Any) -> None:
        self.session, self.artifact = session, session.artifact
        self.last_ms = 0.0

    def __call__(self, *arguments: Any) -> Any:
        """Run the graph."""
        self.last_ms, outputs = timed(lambda: self.session(*arguments))
        return outputs


def measure_parts(session: Any, encoded: bytes) -> dict[str, float]:
    """Return the time in ms of each part of a prediction, except the runtime."""
    contract = session.artifact.contract
    times: dict[str, float] = {}
    times["decode"], pixels = timed(lambda: decode_image(encoded, contract.channel_order))
    size = pixels.shape[1:]
    times["resize"], resized = timed(lambda: resize_image(pixels, resized_size(*size, contract.resize)))
    outputs = session(resized, size)
    times["paste"], fields = timed(lambda: postprocess(outputs, resized.shape[1:], size, contract))
    times["rle"], _ = timed(lambda: to_plain(fields, contract))
    return times


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of this thread in ms during a call, and its result."""
    start = time.thread_time()
    result = call()
    return (time.thread_time() - start) * 1000, result


if __name__ == "__main__":
    run(main)
