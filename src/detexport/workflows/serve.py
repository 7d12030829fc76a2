"""Serve an artifact over HTTP."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detexport.artifact import Artifact
from detexport.data.image_samples import BUNDLED_SAMPLE
from detexport.data.images import read_image
from detexport.runtime.session import Session
from detexport.serving.batching import Predictor
from detexport.serving.limits import Limits
from detexport.serving.server import listen, run_server
from detexport.system.progress import Step, silent
from detexport.workflows.load_detector import found, is_registered


@dataclass(frozen=True)
class Serving:
    """A server that has become ready.

    Args:
        url: its address.
        artifact: the manifest of what it serves.
        load_s: time in which the runtime loaded the artifact, without downloading it.
        ready_s: time from the request to serve until ready.
    """

    url: str
    artifact: Artifact
    load_s: float
    ready_s: float


def serve(
    source: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    target: str = "",
    device: str = "cpu",
    workers: int = 1,
    threads: int = 0,
    limits: Limits | None = None,
    shutdown_s: int = 30,
    step: Step = silent,
    on_ready: Callable[[Serving], None] = lambda _: None,
) -> None:
    """Serve an artifact until SIGTERM or SIGINT.

    Args:
        source: as for ``detexport.load``.
        host: address to listen on.
        port: port to listen on; 0 is a free one.
        target: as for ``detexport.load``.
        device: as for ``detexport.load``.
        workers: number of copies of the model, which run side by side.
        threads: threads of each copy; 0 is the runtime's own choice.
        limits: what a request may be.
        shutdown_s: time in which accepted requests are finished after a signal.
        step: reports how a registered model is downloaded and loaded.
        on_ready: called when the model is loaded.

    Raises:
        ConfigError: the address cannot be used, or see ``detexport.load``.
        DetexportError: the artifact cannot be loaded: see ``detexport.load``.
    """
    start, load_s = time.perf_counter(), 0.0

    def open_sessions() -> list[Session]:
        nonlocal load_s
        shown = step if is_registered(source) else silent
        with found(source, target, shown) as (folder, engine), shown("load the model"):
            opening: Any = replace(engine, threads=threads) if threads else engine  # type: ignore[type-var]
            began = time.perf_counter()
            sessions = [opening.open(folder, device) for _ in range(workers)]
            load_s = time.perf_counter() - began
            return sessions

    with closing(listen(host, port)) as listener:
        address, bound = listener.getsockname()[:2]
        url = f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"

        def notify(predictor: Predictor) -> None:
            artifact = predictor.sessions[0].artifact
            on_ready(Serving(url, artifact, load_s, time.perf_counter() - start))

        run_server(
            listener,
            open_sessions,
            sample=read_image(BUNDLED_SAMPLE),
            limits=limits or Limits(),
            shutdown_s=shutdown_s,
            on_ready=notify,
        )
