"""Measure a server against its bare runtime: throughput and latency of concurrent clients, and lost requests.

The server runs in a process of its own on the loopback address, the clients in threads of this one. Every
answer is compared with the first one for its image. Options that this tool does not know are the server's.
"""

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from detexport.benchmark.latency import measure_interleaved
from detexport.data.images import decode_image
from detexport.predictions.predict_images import predict, resize, to_plain
from detexport.runtime import Session
from detexport.workflows.choose_runtime import engine_of

WARM_UP = 5
PAUSE_S = 0.02
"""Before each call: an engine's threads spin for some time after a call."""
BLOCKS = 5
LOCAL_IMAGES = 40


def measure_latency(session: Session, port: int, files: list[bytes], rounds: int) -> dict[str, Any]:
    """Measure one image after another: the graph, all the work of an image in this process, and a request.

    They take turns, so that the load of the machine affects them equally.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    contract = session.artifact.contract
    resized = [resize(decode_image(file, contract.channel_order), contract) for file in files]

    def request(number: np.ndarray) -> None:
        connection.request("POST", "/predict", files[int(number)], {"Content-Type": "image/png"})
        connection.getresponse().read()

    runners: dict[str, Any] = {
        "graph": lambda number: session(resized[int(number)]),
        "without HTTP": lambda number: answer_locally(session, files[int(number)]),
        "request": request,
    }
    numbers = [np.array(index) for index in range(len(files))]
    return measure_interleaved(
        runners, numbers, warmup=WARM_UP, rounds=rounds, pause_s=PAUSE_S, baseline="without HTTP"
    )


def answer_locally(session: Session, file: bytes) -> str:
    """Return what the server answers for an image, computed in this process."""
    image = decode_image(file, session.artifact.contract.channel_order)
    return json.dumps(to_plain(predict(session, image), session.artifact.contract))


def measure_throughput(
    session: Session, port: int, files: list[bytes], *, clients: int, requests: int
) -> dict[str, Any]:
    """Measure blocks of requests from concurrent clients; after each, this process alone does a block."""
    blocks, ratios = [], []
    for _ in range(BLOCKS):
        blocks.append(measure_clients(port, files, clients=clients, requests=requests // BLOCKS))
        start = time.perf_counter()
        for index in range(LOCAL_IMAGES):
            answer_locally(session, files[index % len(files)])
        ratios.append(blocks[-1]["per_second"] * (time.perf_counter() - start) / LOCAL_IMAGES)
    latencies = [one for block in blocks for one in block["latencies"]]
    percentiles = map(float, np.percentile(latencies, (50, 90, 99)))
    return {
        "clients": clients,
        "requests": sum(block["requests"] for block in blocks),
        "answered": sum(block["answered"] for block in blocks),
        "lost": sum(block["lost"] for block in blocks),
        "differing": sum(block["differing"] for block in blocks),
        "per_second": float(np.median([block["per_second"] for block in blocks])),
        "ratio_to_one_process": float(np.median(ratios)),
        **dict(zip(("p50_ms", "p90_ms", "p99_ms"), percentiles, strict=True)),
    }


@contextlib.contextmanager
def running_server(folder: Path, options: list[str]) -> Iterator[int]:
    """Run ``detexport serve`` on a free port, and yield it."""
    command = [sys.executable, "-m", "detexport.cli", "serve", str(folder), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        if not line.startswith("http://"):
            raise SystemExit(line + process.stderr.read())
        print(process.stderr.readline().strip(), file=sys.stderr)
        yield int(line.split()[0].rpartition(":")[2])
    finally:
        process.terminate()
        process.communicate(timeout=60)


def measure_clients(port: int, files: list[bytes], *, clients: int, requests: int) -> dict[str, Any]:
    """Send requests from concurrent clients, each on a connection of its own.

    Returns:
        Number of requests, of those answered with 200, lost, and answered otherwise than the first for their
        image; requests a second, and the latency of each in ms.
    """
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    first: dict[int, Any] = {}
    lock, numbers = Lock(), iter(range(requests))
    lost = differing = 0

    def run_client(_: int) -> None:
        nonlocal lost, differing
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                connection.close()
                return
            which, start = number % len(files), time.perf_counter()
            try:
                connection.request("POST", "/predict", files[which], {"Content-Type": "image/png"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with lock:
                    lost += 1
                continue
            seconds = time.perf_counter() - start
            with lock:
                statuses[answer.status] += 1
                latencies.append(1000 * seconds)
                if answer.status == 200:
                    differing += not _alike(json.loads(body), first.setdefault(which, json.loads(body)))

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run_client, range(clients)))
    elapsed = time.perf_counter() - start
    return {
        "requests": requests,
        "answered": statuses[200],
        "lost": lost,
        "differing": differing,
        "per_second": requests / elapsed,
        "latencies": latencies,
    }


def _alike(one: Any, other: Any) -> bool:
    """Whether two answers have the same detections: a batch may change the last digits of a number."""
    (one,), (other,) = one["predictions"], other["predictions"]
    return bool(
        one.get("class_names") == other.get("class_names")
        and np.allclose(one.get("scores", []), other.get("scores", []), atol=1e-4)
    )


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder of an artifact")
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument("--requests", type=int, default=2000, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=200, help="calls of the bare runtime")
    parser.add_argument("--json", action="store_true")
    given, options = parser.parse_known_args()
    files = [path.read_bytes() for path in given.images]
    session = engine_of(given.artifact, "").open(given.artifact)
    with running_server(given.artifact, options) as port:
        report: dict[str, Any] = {"latency": measure_latency(session, port, files, given.rounds), "load": []}
        for clients in given.clients:
            row = measure_throughput(session, port, files, clients=clients, requests=given.requests)
            report["load"].append(row)
    if given.json:
        print(json.dumps(report, indent=1))
        return
    for name, one in report["latency"].items():
        print(
            f"{name:13} p50 {one['p50_ms']:6.1f} ms  p90 {one['p90_ms']:6.1f} ms  "
            f"{one['ratio_to_without HTTP']:.2f} of the same without HTTP"
        )
    print("clients requests answered  lost differing per second  of one process   p50 ms   p90 ms   p99 ms")
    for row in report["load"]:
        print(
            f"{row['clients']:7} {row['requests']:8} {row['answered']:8} {row['lost']:5} "
            f"{row['differing']:9} {row['per_second']:10.1f} {row['ratio_to_one_process']:15.2f} "
            f"{row['p50_ms']:8.1f} {row['p90_ms']:8.1f} {row['p99_ms']:8.1f}"
        )


if __name__ == "__main__":
    main()
