"""Run the application: sockets, signals, slow clients, and the end of the process."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from detexport.errors import ConfigError
from detexport.runtime.session import Session
from detexport.serving.app import build_app
from detexport.serving.batching import Predictor
from detexport.serving.limits import Limits
from detexport.serving.statistics import Statistics
from detexport.system.extras import extra_imports

with extra_imports():
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512
"""Open connections; one more is answered with 503."""
KEEP_ALIVE_S = 30
BATCH_LIMIT = 8
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
ENDING = (signal.SIGINT, signal.SIGTERM)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is a free port.

    Raises:
        ConfigError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
        # Connections inherit it; else an answer's body waits 40 ms for the client's acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}",
            got=getattr(error, "strerror", None) or error,
            expected="an address of this machine, and a free port",
            remedy="choose another --port (0 is any free one) or --host",
        ) from error


def run_server(
    listener: socket.socket,
    open_sessions: Callable[[], Sequence[Session]],
    *,
    sample: np.ndarray,
    limits: Limits,
    shutdown_s: int,
    on_ready: Callable[[Predictor], None],
) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests that were accepted, and return.

    Args:
        listener: the socket; it is closed at the end.
        open_sessions: loads the model, in a thread; until it returns the server answers 503.
        sample: image that the model runs before it counts as ready.
        limits: what a request may be.
        shutdown_s: time for the accepted requests after a signal; a second SIGINT ends it at once.
        on_ready: called when the model is ready.

    Raises:
        Exception: that of ``open_sessions``.
    """
    statistics = Statistics()
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    def notify() -> None:
        if predictor.error is None:
            on_ready(predictor)
        else:
            server.should_exit = True

    predictor = Predictor(
        open_sessions,
        queue_limit=limits.queue,
        batch_limit=BATCH_LIMIT,
        statistics=statistics,
        sample=sample,
        on_ready=notify,
    )
    config = uvicorn.Config(
        build_app(predictor, limits, statistics),
        http=_timed(limits.body_timeout_s),
        loop="asyncio",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=shutdown_s,
        backlog=MAX_CONNECTIONS,
    )
    server = _Server(config)
    server.run(sockets=[listener])
    if predictor.error is not None:
        raise predictor.error


class _Server(uvicorn.Server):
    """A server that returns after a signal; uvicorn's own ends the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _timed(timeout_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a time limit for the header of a request, which it does not have."""

    class Timed(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._follow()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._follow()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _follow(self) -> None:
            """Run the timer while the connection is between two requests."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(timeout_s, self._expire)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _expire(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(TIMED_OUT)
                self.transport.close()

    return Timed
